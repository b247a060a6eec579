#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace torch_trt_ext::plugins {

/// Element `index` of a float32 or float16 array, as float32 (exact).
__device__ __forceinline__ float load_float(const float* values, int64_t index) {
  return values[index];
}
__device__ __forceinline__ float load_float(const __half* values, int64_t index) {
  return __half2float(values[index]);
}

}  // namespace torch_trt_ext::plugins
