#pragma once

#include <cstdint>
#include <string>

namespace torch_trt_ext::plugins {

/// Whose arithmetic of boxes is used. docs/plugins.md states each.
enum class BoxConvention : int32_t {
  kRetinanetExamples,
  kTorchvision,
  kDetectron2,
};

/// The convention called `name` in the plugin field 'box_convention'. Throws std::invalid_argument for another name.
BoxConvention parse_box_convention(const std::string& name);

/// The name that parse_box_convention takes.
const char* box_convention_name(BoxConvention convention);

}  // namespace torch_trt_ext::plugins
