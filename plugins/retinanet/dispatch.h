#pragma once

#include <type_traits>

#include "common/dispatch_element.h"
#include "retinanet/score_activation.h"

namespace torch_trt_ext::plugins {

/// As dispatch_element, and with std::true_type where scores are logits.
template <class Launch>
cudaError_t dispatch_scores(ElementType type, ScoreActivation activation, Launch&& launch) {
  return dispatch_element(type, [&](auto element) {
    return activation == ScoreActivation::kSigmoid ? launch(element, std::true_type{})
                                                   : launch(element, std::false_type{});
  });
}

}  // namespace torch_trt_ext::plugins
