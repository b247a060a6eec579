#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <type_traits>

#include "retinanet/element_type.h"
#include "retinanet/score_activation.h"

namespace torch_trt_ext::plugins {

/// Calls `launch` with a value of the C++ type that `type` stands for.
template <class Launch>
cudaError_t dispatch_element(ElementType type, Launch&& launch) {
  return type == ElementType::kFloat16 ? launch(__half{}) : launch(float{});
}

/// As above, and with std::true_type where scores are logits.
template <class Launch>
cudaError_t dispatch_scores(ElementType type, ScoreActivation activation, Launch&& launch) {
  return dispatch_element(type, [&](auto element) {
    return activation == ScoreActivation::kSigmoid ? launch(element, std::true_type{})
                                                   : launch(element, std::false_type{});
  });
}

}  // namespace torch_trt_ext::plugins
