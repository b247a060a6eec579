#pragma once

#include <cstdint>
#include <string>

namespace torch_trt_ext::plugins {

/// What turns an element of the scores' head into a score.
enum class ScoreActivation : int32_t {
  /// The heads hold probabilities.
  kNone,
  /// The heads hold logits: the score is 1 / (1 + exp(-x)), each step rounded to float32.
  kSigmoid,
};

/// The activation called `name` in the plugin field 'score_activation'. Throws std::invalid_argument for another name.
ScoreActivation parse_score_activation(const std::string& name);

}  // namespace torch_trt_ext::plugins
