#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/io_spec.h"

namespace torch_trt_ext {

/// What shapes an engine takes and gives, in the caller's order. Known wherever the engine ran once, and kept when it
/// is saved.
struct IoShapes {
  /// -1 marks a dimension that varies.
  std::vector<std::vector<int64_t>> inputs;
  std::vector<std::vector<int64_t>> outputs;
  /// One range an input, for each profile; none when no engine told yet.
  std::vector<Profile> profiles;

  bool known() const { return !profiles.empty(); }
};

/// Reads them off an engine that has all that `spec` names.
IoShapes shapes_of(const IoSpec& spec, const Engine& engine);

/// Shapes as words: "1x3x-1x-1", and "" for one without dimensions.
std::vector<std::string> to_words(const std::vector<std::vector<int64_t>>& shapes);
/// Profiles as words, one a profile: the inputs' ranges between semicolons, each the smallest, the tuned and the
/// largest shape between commas.
std::vector<std::string> to_words(const std::vector<Profile>& profiles);

/// Reads what to_words made. Throws c10::ValueError for anything else, without repeating more than a few bytes of it.
IoShapes parse_shapes(const IoSpec& spec, const std::vector<std::string>& inputs,
                      const std::vector<std::string>& outputs, const std::vector<std::string>& profiles);

}  // namespace torch_trt_ext
