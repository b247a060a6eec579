#include "common/dispatch_element.h"
#include "common/vector_access.cuh"
#include "layers/leaky_relu_kernels.h"

namespace torch_trt_ext::plugins {
namespace {

constexpr uint32_t kThreads = 256;
/// Packs that a thread has under way at once: what it takes to keep the memory busy.
constexpr uint32_t kPacks = 4;

template <class T>
__device__ __forceinline__ T leaky_relu(T value, float neg_slope) {
  const float x = to_float(value);
  return from_float<T>(x > 0.0F ? x : neg_slope * x);
}

/// One block a tile of kThreads * kPacks packs; the last block's threads share what is left over past the last pack.
template <class T, uint32_t kLength>
__global__ void __launch_bounds__(kThreads)
    leaky_relu_kernel(const T* input, T* output, int64_t count, float neg_slope) {
  using Elements = Pack<T, kLength>;
  const int64_t packs = count / kLength;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads * kPacks) + threadIdx.x;
  const Elements* from = reinterpret_cast<const Elements*>(input);
  Elements* to = reinterpret_cast<Elements*>(output);
  Elements loaded[kPacks];
#pragma unroll
  for (uint32_t pack = 0; pack < kPacks; ++pack) {
    const int64_t index = first + pack * kThreads;
    if (index < packs) {
      loaded[pack] = from[index];
    }
  }
#pragma unroll
  for (uint32_t pack = 0; pack < kPacks; ++pack) {
    const int64_t index = first + pack * kThreads;
    if (index < packs) {
#pragma unroll
      for (uint32_t element = 0; element < kLength; ++element) {
        loaded[pack].values[element] = leaky_relu(loaded[pack].values[element], neg_slope);
      }
      to[index] = loaded[pack];
    }
  }
  const int64_t left_over = packs * kLength + threadIdx.x;
  if (blockIdx.x == gridDim.x - 1 && left_over < count) {
    output[left_over] = leaky_relu(input[left_over], neg_slope);
  }
}

template <class T, uint32_t kLength>
cudaError_t launch(const void* input, void* output, int64_t count, float neg_slope, cudaStream_t stream) {
  constexpr int64_t kTile = static_cast<int64_t>(kThreads) * kPacks * kLength;
  const int64_t blocks = (count + kTile - 1) / kTile;
  if (blocks > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  leaky_relu_kernel<T, kLength><<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(
      static_cast<const T*>(input), static_cast<T*>(output), count, neg_slope);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_leaky_relu(const void* input, void* output, int64_t count, float neg_slope, ElementType type,
                              cudaStream_t stream) {
  if (count == 0) {
    return cudaSuccess;
  }
  return dispatch_element(type, [&](auto element) {
    using T = decltype(element);
    return is_widest_aligned(input) && is_widest_aligned(output)
               ? launch<T, kWidest<T>>(input, output, count, neg_slope, stream)
               : launch<T, 1>(input, output, count, neg_slope, stream);
  });
}

}  // namespace torch_trt_ext::plugins
