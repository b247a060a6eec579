#pragma once

#include <cstdint>

namespace torch_trt_ext::plugins {

/// Type of a kernel's floating point inputs.
enum class ElementType : int32_t { kFloat32, kFloat16 };

}  // namespace torch_trt_ext::plugins
