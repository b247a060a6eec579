#include "retinanet/score_activation.h"

#include <stdexcept>

namespace torch_trt_ext::plugins {

ScoreActivation parse_score_activation(const std::string& name) {
  if (name == "none") {
    return ScoreActivation::kNone;
  }
  if (name == "sigmoid") {
    return ScoreActivation::kSigmoid;
  }
  throw std::invalid_argument("field 'score_activation' must be 'none' or 'sigmoid', got '" + name + "'");
}

}  // namespace torch_trt_ext::plugins
