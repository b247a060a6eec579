#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace torch_trt_ext::plugins {

/// Elements of one 16-byte access, the widest there is.
template <class T>
constexpr uint32_t kWidest = 16 / sizeof(T);

/// `kLength` elements that are read or written at once: 1, or kWidest<T> from an address that is 16 bytes aligned.
template <class T, uint32_t kLength>
struct alignas(kLength * sizeof(T)) Pack {
  static_assert(kLength == 1 || kLength == kWidest<T>, "other lengths are not worth a kernel");
  T values[kLength];
};

/// Whether packs of kWidest<T> can be accessed at the address.
inline bool is_widest_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

__device__ __forceinline__ float to_float(float value) {
  return value;
}
__device__ __forceinline__ float to_float(__half value) {
  return __half2float(value);
}

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}

}  // namespace torch_trt_ext::plugins
