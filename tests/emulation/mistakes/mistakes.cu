/// Kernels that are wrong, each in one way, for tests of the emulation itself.

#include <cooperative_groups.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace {

constexpr uint32_t kThreads = 64;

/// What is wrong; `kNothing` shows that the others are found for what they are.
enum class Mistake : int {
  kNothing,
  kNoBarrier,
  kNoWarpBarrier,
  kPlainAddition,
  kWritesPastEnd,
  kReadsPastEnd,
  kWritesInput,
  kPastSharedVariable,
  kPastArray,
  kMisaligned,
  kBarrierOfSome,
  kDifferentBarriers,
  kLaneMissing,
  kEndsBeforeClusterReads,
  kNoClusterBarrier,
  kNoGridBarrier,
  kSpins,
  kTooManyThreads,
  kRacingBlocks,
};

/// Each element becomes the one that the opposite thread of the block has.
__global__ void __launch_bounds__(kThreads) reverse_kernel(const float* input, float* output, Mistake mistake) {
  __shared__ float values[kThreads];
  __shared__ uint32_t count;
  __shared__ uint32_t warp_value[kThreads / 32];
  const uint32_t thread = threadIdx.x;
  const uint32_t first = blockIdx.x * kThreads;
  values[thread] = input[first + thread + (mistake == Mistake::kReadsPastEnd ? 1 : 0)];
  if (thread == 0) {
    count = 0;
  }
  if (mistake == Mistake::kDifferentBarriers && thread < 40) {
    __syncthreads();
  } else if (mistake != Mistake::kNoBarrier) {
    __syncthreads();
  }
  if (mistake == Mistake::kPlainAddition) {
    ++count;
  } else {
    atomicAdd(&count, 1U);
  }
  if (thread % 32 == 0) {
    warp_value[thread / 32] = thread;
  }
  if (mistake != Mistake::kNoWarpBarrier) {
    __syncwarp();
  }
  const uint32_t first_of_warp = warp_value[thread / 32];
  if (mistake == Mistake::kLaneMissing && thread == 5) {
    return;
  }
  if (mistake == Mistake::kBarrierOfSome && thread < 40) {
    __syncthreads();
  }
  const uint32_t first_again = __shfl_sync(0xFFFFFFFFU, thread, 0);
  if (mistake == Mistake::kSpins) {
    while (atomicAdd(&count, 0U) != kThreads + 1) {
    }
  }
  if (mistake == Mistake::kPastSharedVariable) {
    float* const past = values + kThreads;
    *past = 1.0F;
  }
  if (mistake == Mistake::kPastArray) {
    values[thread + kThreads] = 1.0F;
  }
  if (mistake == Mistake::kMisaligned) {
    const float4 four = *reinterpret_cast<const float4*>(input + 1);
    values[thread] = four.x;
  }
  if (mistake == Mistake::kWritesInput) {
    const_cast<float*>(input)[first + thread] = 0.0F;
  }
  const uint32_t block = mistake == Mistake::kRacingBlocks ? 0 : first;
  output[block + thread + (mistake == Mistake::kWritesPastEnd ? 1 : 0)] =
      first_again == first_of_warp ? values[kThreads - 1 - thread] : -1.0F;
}

/// Each block of a cluster copies the first element of the next one.
__global__ void cluster_kernel(const float* input, float* output, Mistake mistake) {
  __shared__ float value;
  const auto cluster = cooperative_groups::this_cluster();
  if (threadIdx.x == 0) {
    value = input[blockIdx.x * kThreads];
  }
  if (mistake != Mistake::kNoClusterBarrier) {
    cluster.sync();
  } else {
    // The others have started, and no more.
    asm volatile("barrier.cluster.arrive.relaxed.aligned;");
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
  }
  const uint32_t next = (cluster.block_rank() + 1) % cluster.num_blocks();
  const float* const other = cluster.map_shared_rank(&value, static_cast<int>(next));
  output[blockIdx.x * kThreads + threadIdx.x] = *other;
  if (mistake != Mistake::kEndsBeforeClusterReads) {
    cluster.sync();
  }
}

/// Each block copies the first element of the next one, by way of the output.
__global__ void grid_kernel(const float* input, float* output, Mistake mistake) {
  const auto grid = cooperative_groups::this_grid();
  output[grid.thread_rank()] = input[grid.thread_rank()];
  if (mistake != Mistake::kNoGridBarrier) {
    grid.sync();
  }
  const float first = output[(blockIdx.x + 1) % gridDim.x * kThreads];
  grid.sync();
  output[grid.thread_rank()] = first;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int launch_mistake(int kernel, int mistake, const float* input,
                                                                     float* output) {
  const Mistake what = static_cast<Mistake>(mistake);
  if (kernel == 0) {
    const uint32_t threads = what == Mistake::kTooManyThreads ? 2 * kThreads : kThreads;
    reverse_kernel<<<2, threads>>>(input, output, what);
    return cudaGetLastError();
  }
  if (kernel == 1) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {2, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(2);
    config.blockDim = dim3(kThreads);
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, cluster_kernel, input, output, what);
  }
  void* arguments[] = {&input, &output, const_cast<Mistake*>(&what)};
  return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(&grid_kernel), dim3(2), dim3(kThreads), arguments, 0,
                                     nullptr);
}
