#include "beta_swish.h"

#include <cuda_fp16.h>

namespace {

constexpr int64_t kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) beta_swish_kernel(const T* input, T* output, int64_t count, float beta) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < count) {
    const float x = static_cast<float>(input[index]);
    output[index] = static_cast<T>(x / (1.0F + expf(-beta * x)));
  }
}

template <class T>
cudaError_t launch(const void* input, void* output, int64_t count, float beta, cudaStream_t stream) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  if (blocks > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  beta_swish_kernel<T><<<static_cast<uint32_t>(blocks), kThreads, 0, stream>>>(static_cast<const T*>(input),
                                                                               static_cast<T*>(output), count, beta);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_beta_swish(const void* input, void* output, int64_t count, float beta, bool is_half,
                              cudaStream_t stream) {
  // A grid of no blocks is an error.
  if (count == 0) {
    return cudaSuccess;
  }
  return is_half ? launch<__half>(input, output, count, beta, stream)
                 : launch<float>(input, output, count, beta, stream);
}
