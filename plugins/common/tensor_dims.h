#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/element_type.h"

namespace torch_trt_ext::plugins {

/// Shapes as the steps of a build give them, -1 for an extent that is not known yet.
std::vector<nvinfer1::Dims> known_dims(const nvinfer1::DimsExprs* tensors, int32_t count);
/// The largest shapes that the profile allows, or the shapes themselves when there is no profile.
std::vector<nvinfer1::Dims> largest_dims(const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t count);
/// The shapes that the profile is tuned for, likewise.
std::vector<nvinfer1::Dims> tuned_dims(const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t count);
std::vector<nvinfer1::Dims> actual_dims(const nvinfer1::PluginTensorDesc* tensors, int32_t count);

/// Of a float32 or float16 tensor.
inline ElementType element_type(const nvinfer1::PluginTensorDesc& tensor) {
  return tensor.type == nvinfer1::DataType::kHALF ? ElementType::kFloat16 : ElementType::kFloat32;
}

/// Throws std::invalid_argument unless `actual` is `required`; `what` says of what.
void check_count(const char* what, int32_t actual, int32_t required);

/// "[2, 3, -1]", for messages.
std::string describe(const nvinfer1::Dims& dims);

/// True when both are known and differ.
inline bool differ(int64_t extent, int64_t other) {
  return extent >= 0 && other >= 0 && extent != other;
}

}  // namespace torch_trt_ext::plugins
