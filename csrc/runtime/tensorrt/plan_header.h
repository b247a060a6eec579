#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace torch_trt_ext::tensorrt {

/// Throws c10::ValueError when `plan` (uint8, CPU, contiguous) does not begin as a TensorRT plan does, or is shorter
/// than its header says.
void check_plan_header(const at::Tensor& plan);

/// The version of TensorRT that wrote a plan that passed check_plan_header, e.g. "10.6.0.26".
std::string plan_version(const at::Tensor& plan);

}  // namespace torch_trt_ext::tensorrt
