#pragma once

#include <NvInferRuntime.h>
#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/Optional.h>

#include <algorithm>
#include <vector>

namespace torch_trt_ext::tensorrt {

// Conversions between torch's and TensorRT's shapes and element types.

inline std::vector<int64_t> to_sizes(const nvinfer1::Dims& dims) {
  return std::vector<int64_t>(dims.d, dims.d + (dims.nbDims < 0 ? 0 : dims.nbDims));
}

/// `sizes` has at most nvinfer1::Dims::MAX_DIMS entries: the rank was compared with the engine's before.
inline nvinfer1::Dims to_dims(c10::IntArrayRef sizes) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), dims.d);
  return dims;
}

/// Nothing for a type that torch tensors do not have (int4, fp4, ...).
inline c10::optional<c10::ScalarType> to_scalar_type(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return c10::kFloat;
    case nvinfer1::DataType::kHALF:
      return c10::kHalf;
    case nvinfer1::DataType::kBF16:
      return c10::kBFloat16;
    case nvinfer1::DataType::kINT32:
      return c10::kInt;
    case nvinfer1::DataType::kINT64:
      return c10::kLong;
    case nvinfer1::DataType::kINT8:
      return c10::kChar;
    case nvinfer1::DataType::kUINT8:
      return c10::kByte;
    case nvinfer1::DataType::kBOOL:
      return c10::kBool;
    case nvinfer1::DataType::kFP8:
      return c10::kFloat8_e4m3fn;
    default:
      return c10::nullopt;
  }
}

}  // namespace torch_trt_ext::tensorrt
