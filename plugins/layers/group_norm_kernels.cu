#include <cooperative_groups.h>

#include "common/dispatch_element.h"
#include "common/once_a_device.h"
#include "common/vector_access.cuh"
#include "common/workspace.h"
#include "layers/group_norm_elements.cuh"
#include "layers/group_norm_kernels.h"
#include "layers/group_norm_moments.cuh"
#include "layers/group_norm_plan.h"
#include "layers/group_norm_work.h"

namespace torch_trt_ext::plugins {
namespace {

/// Moments of all that the block holds, the same for all threads; `of_warps` has an entry a warp.
template <class T, uint32_t kLength>
__device__ __forceinline__ Moments block_moments(const HeldElements<T, kLength, 0>& held, float count,
                                                 CountedMoments* of_warps) {
  const CountedMoments found = held.warp_moments();
  if (lane_index() == 0) {
    of_warps[warp_index()] = found;
  }
  __syncthreads();
  return merged(of_warps, blockDim.x / kWarpThreads, count);
}

/// One block a group.
template <class T, uint32_t kLength>
__global__ void __launch_bounds__(kMaxThreads, 1)
    group_norm_kernel(const T* input, T* output, const __grid_constant__ GroupNormWork work) {
  __shared__ CountedMoments of_warps[kMaxThreads / kWarpThreads];
  __shared__ float2 staged[kStagedChannels];
  const uint32_t group = blockIdx.x;
  const int64_t start = static_cast<int64_t>(group) * work.elements_per_group;
  const HeldElements<T, kLength, 0> held(work, {work, kLength, group, 0}, input + start, nullptr);
  const GroupAffine affine(work, group, staged);
  const Moments moments = block_moments(held, static_cast<float>(work.elements_per_group), of_warps);
  held.write(work, statistics_of(moments, work), affine, output + start);
}

/// One cluster a group.
template <class T, uint32_t kLength, uint32_t kInShared>
__global__ void __launch_bounds__(kInShared > 0 ? kMaxClusterThreads : kMaxClusterThreads / 2, kInShared > 0 ? 2 : 4)
    cluster_group_norm_kernel(const T* input, T* output, const __grid_constant__ GroupNormWork work) {
#if __CUDA_ARCH__ >= 900
  __shared__ CountedMoments of_warps[kMaxClusterBlocks * (kMaxClusterThreads / kWarpThreads)];
  __shared__ float2 staged[kStagedChannels];
  extern __shared__ __align__(16) unsigned char shared[];
  const auto cluster = cooperative_groups::this_cluster();
  // Nobody may write into a block that has not started.
  asm volatile("barrier.cluster.arrive.relaxed.aligned;");
  const uint32_t group = work.by_blocks_per_group(blockIdx.x);
  const uint32_t block = blockIdx.x - group * work.blocks_per_group;
  const int64_t start = static_cast<int64_t>(group) * work.elements_per_group;
  const HeldElements<T, kLength, kInShared> held(work, {work, kLength, group, block}, input + start,
                                                 reinterpret_cast<Pack<T, kLength>*>(shared));
  const GroupAffine affine(work, group, staged);
  const CountedMoments found = held.warp_moments();
  const uint32_t warps = blockDim.x / kWarpThreads;
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
  // Each warp tells all blocks, which then read nothing but their own memory: a block may end before the others.
  if (lane_index() < work.blocks_per_group) {
    *cluster.map_shared_rank(of_warps + block * warps + warp_index(), lane_index()) = found;
  }
  __syncwarp();
  cluster.sync();
  const Moments moments = merged(of_warps, work.blocks_per_group * warps, static_cast<float>(work.elements_per_group));
  held.write(work, statistics_of(moments, work), affine, output + start);
#else
  __trap();
#endif
}

/// A part of a group: which, and of which.
struct GroupPart {
  uint32_t group;
  uint32_t number;

  __device__ __forceinline__ GroupPart(const GroupNormWork& work, uint32_t index)
      : group(work.by_blocks_per_group(index)), number(index - group * work.blocks_per_group) {}
};

/// One block a part.
template <class T, uint32_t kLength>
__global__ void __launch_bounds__(kPartThreads, 4)
    part_moments_kernel(const T* input, Moments* moments, const __grid_constant__ GroupNormWork work) {
  __shared__ CountedMoments of_warps[kPartThreads / kWarpThreads];
  const GroupPart part(work, blockIdx.x);
  const BlockSpan span(work, kLength, part.group, part.number);
  const T* group = input + static_cast<int64_t>(part.group) * work.elements_per_group;
  const HeldElements<T, kLength, 0> held(work, span, group, nullptr);
  const Moments found = block_moments(held, static_cast<float>(span.elements(kLength)), of_warps);
  if (threadIdx.x == 0) {
    moments[blockIdx.x] = found;
  }
}

/// One block a group: its parts' moments to its statistics, in an order that depends on nothing but their number.
__global__ void __launch_bounds__(kPartThreads, 4)
    statistics_kernel(const Moments* moments, Statistics* statistics, uint32_t pack_length,
                      const __grid_constant__ GroupNormWork work) {
  constexpr uint32_t kWarps = kPartThreads / kWarpThreads;
  __shared__ CountedMoments of_warps[kWarps];
  const Moments* of_parts = moments + static_cast<int64_t>(blockIdx.x) * work.blocks_per_group;
  CountedMoments sum = {0.0F, {0.0F, 0.0F}};
  for (uint32_t part = threadIdx.x; part < work.blocks_per_group; part += kPartThreads) {
    const BlockSpan span(work, pack_length, blockIdx.x, part);
    sum.merge({static_cast<float>(span.elements(pack_length)), of_parts[part]});
  }
  sum.merge_warp();
  if (lane_index() == 0) {
    of_warps[warp_index()] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (uint32_t warp = 1; warp < kWarps; ++warp) {
      sum.merge(of_warps[warp]);
    }
    statistics[blockIdx.x] = statistics_of(sum.moments, work);
  }
}

/// One block a part, the last ones first: they are what the caches still hold.
template <class T, uint32_t kLength>
__global__ void __launch_bounds__(kPartThreads, 4)
    normalize_parts_kernel(const T* input, T* output, const Statistics* statistics,
                           const __grid_constant__ GroupNormWork work) {
  __shared__ float2 staged[kStagedChannels];
  const GroupPart part(work, gridDim.x - 1 - blockIdx.x);
  const int64_t start = static_cast<int64_t>(part.group) * work.elements_per_group;
  const HeldElements<T, kLength, 0> held(work, {work, kLength, part.group, part.number}, input + start, nullptr);
  const GroupAffine affine(work, part.group, staged);
  const Statistics found = statistics[part.group];
  __syncthreads();
  held.write(work, found, affine, output + start);
}

struct Workspace {
  Moments* moments;
  Statistics* statistics;
  size_t size_bytes;

  Workspace(const GroupNormShape& shape, void* memory) {
    const int64_t parts = (shape.elements_per_group() + kSmallestPart - 1) / kSmallestPart;
    WorkspaceParts parts_of_memory(memory);
    moments = parts_of_memory.take<Moments>(shape.groups() * parts);
    statistics = parts_of_memory.take<Statistics>(shape.groups());
    size_bytes = parts_of_memory.size_bytes();
  }
};

template <class T>
constexpr auto kClusterKernel = cluster_group_norm_kernel<T, kWidest<T>, 0>;
/// The one that holds more.
template <class T>
constexpr auto kLargeClusterKernel = cluster_group_norm_kernel<T, kWidest<T>, kSharedPacks>;

constexpr size_t shared_bytes(uint32_t threads) {
  return size_t{threads} * kSharedPacks * 16;
}

/// A launch of clusters; borrows `attribute`.
cudaLaunchConfig_t cluster_launch(uint32_t grid, uint32_t cluster_blocks, uint32_t threads, size_t dynamic_bytes,
                                  cudaStream_t stream, cudaLaunchAttribute& attribute) {
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster_blocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = dynamic_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return config;
}

/// Lets the kernel have its shared memory, and asks whether its largest clusters fit on the current device.
template <class Kernel>
bool can_launch_clusters(Kernel kernel) {
  constexpr size_t kBytes = shared_bytes(kMaxClusterThreads);
  // Of a multiprocessor's: what two such blocks take on 9.0, so that the rest is cache.
  constexpr int kPercent = 75;
  cudaFuncAttributes attributes;
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config =
      cluster_launch(kMaxClusterBlocks, kMaxClusterBlocks, kMaxClusterThreads, kBytes, nullptr, attribute);
  int clusters = 0;
  // Code for an older architecture may run here, compiled by the driver, and has none of the kernel's body.
  const bool can_launch =
      cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90 &&
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes) == cudaSuccess &&
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, kPercent) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) == cudaSuccess && clusters > 0;
  if (!can_launch) {
    // A device that refuses does without; an error of another kind is the next launch's too.
    static_cast<void>(cudaGetLastError());
  }
  return can_launch;
}

cudaError_t look_at_device(int ordinal, GroupNormDevice& device) {
  int supports_clusters = 0;
  cudaError_t status = cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, ordinal);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&supports_clusters, cudaDevAttrClusterLaunch, ordinal);
  }
  device.has_clusters = status == cudaSuccess && supports_clusters != 0 &&
                        can_launch_clusters(kLargeClusterKernel<float>) &&
                        can_launch_clusters(kLargeClusterKernel<__half>);
  return status;
}

cudaError_t current_device(GroupNormDevice& device) {
  static OnceADevice<GroupNormDevice> known;
  return known.get(device, look_at_device);
}

template <class T, uint32_t kLength>
cudaError_t launch_parts(const GroupNormWork& work, uint32_t groups, uint32_t grid, const Workspace& memory,
                         const T* input, T* output, cudaStream_t stream) {
  part_moments_kernel<T, kLength><<<grid, kPartThreads, 0, stream>>>(input, memory.moments, work);
  cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    return status;
  }
  statistics_kernel<<<groups, kPartThreads, 0, stream>>>(memory.moments, memory.statistics, kLength, work);
  status = cudaGetLastError();
  if (status != cudaSuccess) {
    return status;
  }
  normalize_parts_kernel<T, kLength><<<grid, kPartThreads, 0, stream>>>(input, output, memory.statistics, work);
  return cudaGetLastError();
}

template <class T, uint32_t kLength>
cudaError_t launch(const GroupNormShape& shape, float eps, const ChannelAffine& affine, GroupNormVariant variant,
                   const T* input, T* output, void* workspace, cudaStream_t stream) {
  GroupNormDevice device;
  const cudaError_t status = current_device(device);
  if (status != cudaSuccess) {
    return status;
  }
  const GroupNormPlan plan = plan_group_norm(shape, variant, kLength, device);
  if (shape.groups() > INT32_MAX / plan.blocks_per_group) {
    return cudaErrorInvalidConfiguration;
  }
  const uint32_t groups = static_cast<uint32_t>(shape.groups());
  const uint32_t grid = groups * plan.blocks_per_group;
  const uint32_t misalignment = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(input) / sizeof(T) % kLength);
  const GroupNormWork work = make_work(shape, eps, affine, plan, misalignment);
  if (plan.variant == GroupNormVariant::kParts) {
    return launch_parts<T, kLength>(work, groups, grid, Workspace(shape, workspace), input, output, stream);
  }
  if (plan.variant == GroupNormVariant::kOneBlock) {
    group_norm_kernel<T, kLength><<<grid, plan.threads, 0, stream>>>(input, output, work);
    return cudaGetLastError();
  }
  if constexpr (kLength > 1) {
    cudaLaunchAttribute attribute;
    const cudaLaunchConfig_t config =
        cluster_launch(grid, plan.blocks_per_group, plan.threads,
                       plan.uses_shared_memory ? shared_bytes(plan.threads) : 0, stream, attribute);
    return cudaLaunchKernelEx(&config, plan.uses_shared_memory ? kLargeClusterKernel<T> : kClusterKernel<T>, input,
                              output, work);
  } else {
    return cudaErrorInvalidConfiguration;
  }
}

}  // namespace

std::vector<GroupNormVariant> group_norm_variants(const GroupNormShape& shape) {
  GroupNormDevice device = {0, false};
  if (current_device(device) != cudaSuccess) {
    device.has_clusters = false;
    // Nobody else's launch shall find it.
    static_cast<void>(cudaGetLastError());
  }
  return variants_on(shape, device);
}

cudaError_t prepare_group_norm() {
  GroupNormDevice device;
  return current_device(device);
}

size_t group_norm_workspace_bytes(const GroupNormShape& shape) {
  return Workspace(shape, nullptr).size_bytes;
}

cudaError_t launch_group_norm(const GroupNormShape& shape, float eps, const ChannelAffine& affine,
                              GroupNormVariant variant, const void* input, void* output, ElementType type,
                              void* workspace, cudaStream_t stream) {
  if (shape.num_groups < 1 || shape.channels % shape.num_groups != 0 ||
      shape.elements_per_group() > kMaxElementsPerGroup) {
    return cudaErrorInvalidValue;
  }
  if (shape.groups() == 0 || shape.elements_per_group() == 0) {
    return cudaSuccess;
  }
  const bool share_packs = (reinterpret_cast<uintptr_t>(input) - reinterpret_cast<uintptr_t>(output)) % 16 == 0;
  return dispatch_element(type, [&](auto element) {
    using T = decltype(element);
    const T* from = static_cast<const T*>(input);
    T* to = static_cast<T*>(output);
    return share_packs ? launch<T, kWidest<T>>(shape, eps, affine, variant, from, to, workspace, stream)
                       : launch<T, 1>(shape, eps, affine, variant, from, to, workspace, stream);
  });
}

}  // namespace torch_trt_ext::plugins
