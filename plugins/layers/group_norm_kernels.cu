#include "common/dispatch_element.h"
#include "common/load_float.cuh"
#include "common/vector_access.cuh"
#include "common/workspace.h"
#include "layers/group_norm_kernels.h"

namespace torch_trt_ext::plugins {
namespace {

constexpr uint32_t kWarpThreads = 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFFU;
/// Most threads of a block that holds a group, and the threads of one that holds a part of a group.
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kPartThreads = 256;

/// Packs that a thread holds in registers: 128 bytes, or 16 elements.
template <uint32_t kLength>
constexpr uint32_t kPacks = kLength == 1 ? 16 : 8;

/// Elements that one block holds of a group in any case, and the least that a part of it has, its last one
/// apart: those of kLength 1.
constexpr int64_t kSmallGroup = int64_t{kMaxThreads} * kPacks<1>;
constexpr int64_t kSmallPart = int64_t{kPartThreads} * kPacks<1>;

/// What all blocks know.
struct GroupNormWork {
  ChannelAffine affine;
  float eps;
  uint32_t num_groups;
  uint32_t channels_per_group;
  uint32_t spatial;
  uint32_t elements_per_group;
};

/// Mean of some elements, and the sum of their squared differences to it.
struct Moments {
  float mean;
  float squares;
};

/// A group's, and one over its standard deviation.
struct Statistics {
  float mean;
  float inverse_deviation;
};

int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

/// The block's sum, the same for all its threads; `warp_sums` has one element a warp.
__device__ __forceinline__ float block_sum(float value, float* warp_sums) {
  const auto warp_sum = [&] {
#pragma unroll
    for (uint32_t distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(kAllLanes, value, distance);
    }
  };
  const uint32_t lane = threadIdx.x % kWarpThreads;
  warp_sum();
  // An earlier sum may still be read.
  __syncthreads();
  if (lane == 0) {
    warp_sums[threadIdx.x / kWarpThreads] = value;
  }
  __syncthreads();
  value = lane < blockDim.x / kWarpThreads ? warp_sums[lane] : 0.0F;
  warp_sum();
  return value;
}

/// The elements of a group that a block holds in registers: `count` of them, a multiple of kLength, from number
/// `first` on.
template <class T, uint32_t kLength>
class HeldElements {
 public:
  __device__ __forceinline__ HeldElements(const T* group, uint32_t first, uint32_t count)
      : first_(first), count_(count) {
    const Elements* from = reinterpret_cast<const Elements*>(group + first);
#pragma unroll
    for (uint32_t number = 0; number < kPacks<kLength>; ++number) {
      if (holds(number)) {
        packs_[number] = from[pack_index(number)];
      }
    }
  }

  /// Moments of the block's elements, the same for all threads.
  __device__ __forceinline__ Moments moments(float* warp_sums) const {
    const float count = static_cast<float>(count_);
    const float mean = block_sum(thread_sum([](float x) { return x; }), warp_sums) / count;
    const auto squared_difference = [mean](float x) { return (x - mean) * (x - mean); };
    return {mean, block_sum(thread_sum(squared_difference), warp_sums)};
  }

  /// Writes the elements, normalized, to where they are in `group`, whose first channel is `first_channel`.
  __device__ __forceinline__ void write(const GroupNormWork& work, const Statistics& statistics, uint32_t first_channel,
                                        T* group) {
    Elements* to = reinterpret_cast<Elements*>(group + first_);
#pragma unroll
    for (uint32_t number = 0; number < kPacks<kLength>; ++number) {
      if (holds(number)) {
        normalize(work, statistics, first_channel, first_ + pack_index(number) * kLength, packs_[number]);
        to[pack_index(number)] = packs_[number];
      }
    }
  }

 private:
  using Elements = Pack<T, kLength>;

  static __device__ __forceinline__ uint32_t pack_index(uint32_t number) { return threadIdx.x + number * blockDim.x; }
  __device__ __forceinline__ bool holds(uint32_t number) const { return pack_index(number) * kLength < count_; }

  template <class Map>
  __device__ __forceinline__ float thread_sum(Map&& map) const {
    float sum = 0.0F;
#pragma unroll
    for (uint32_t number = 0; number < kPacks<kLength>; ++number) {
      if (holds(number)) {
#pragma unroll
        for (uint32_t element = 0; element < kLength; ++element) {
          sum += map(to_float(packs_[number].values[element]));
        }
      }
    }
    return sum;
  }

  /// `position` is the place in the group of the pack's first element.
  static __device__ __forceinline__ void normalize(const GroupNormWork& work, const Statistics& statistics,
                                                   uint32_t first_channel, uint32_t position, Elements& pack) {
    uint32_t channel = position / work.spatial;
    uint32_t left_in_channel = work.spatial - (position - channel * work.spatial);
    channel += first_channel;
    float scale = parameter(work.affine.scale, work.affine.type, channel) * statistics.inverse_deviation;
    float bias = parameter(work.affine.bias, work.affine.type, channel);
#pragma unroll
    for (uint32_t element = 0; element < kLength; ++element) {
      if (left_in_channel == 0) {
        ++channel;
        left_in_channel = work.spatial;
        scale = parameter(work.affine.scale, work.affine.type, channel) * statistics.inverse_deviation;
        bias = parameter(work.affine.bias, work.affine.type, channel);
      }
      const float x = to_float(pack.values[element]);
      pack.values[element] = from_float<T>((x - statistics.mean) * scale + bias);
      --left_in_channel;
    }
  }

  static __device__ __forceinline__ float parameter(const void* values, ElementType type, uint32_t channel) {
    return type == ElementType::kFloat16 ? load_float(static_cast<const __half*>(values), channel)
                                         : load_float(static_cast<const float*>(values), channel);
  }

  Elements packs_[kPacks<kLength>];
  uint32_t first_;
  uint32_t count_;
};

__device__ __forceinline__ Statistics statistics_of(const Moments& moments, const GroupNormWork& work) {
  const float variance = moments.squares / static_cast<float>(work.elements_per_group);
  return {moments.mean, rsqrtf(variance + work.eps)};
}

/// One block a group that it can hold: every element is read once.
template <class T, uint32_t kLength>
__global__ void __launch_bounds__(kMaxThreads)
    group_norm_kernel(const T* input, T* output, const __grid_constant__ GroupNormWork work) {
  __shared__ float warp_sums[kMaxThreads / kWarpThreads];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * work.elements_per_group;
  HeldElements<T, kLength> held(input + start, 0, work.elements_per_group);
  const Statistics statistics = statistics_of(held.moments(warp_sums), work);
  held.write(work, statistics, blockIdx.x % work.num_groups * work.channels_per_group, output + start);
}

/// A part of a group that is too large for one block: its place, and how many elements it has.
struct GroupPart {
  uint32_t group;
  uint32_t first;
  uint32_t count;

  __device__ __forceinline__ GroupPart(const GroupNormWork& work, uint32_t number, uint32_t parts_per_group,
                                       uint32_t elements_per_part)
      : group(number / parts_per_group),
        first(number % parts_per_group * elements_per_part),
        count(min(elements_per_part, work.elements_per_group - first)) {}
};

template <uint32_t kLength>
constexpr uint32_t kPartElements = kPartThreads * kPacks<kLength> * kLength;

/// One block a part.
template <class T, uint32_t kLength>
__global__ void __launch_bounds__(kPartThreads)
    part_moments_kernel(const T* input, Moments* moments, uint32_t parts_per_group,
                        const __grid_constant__ GroupNormWork work) {
  __shared__ float warp_sums[kPartThreads / kWarpThreads];
  const GroupPart part(work, blockIdx.x, parts_per_group, kPartElements<kLength>);
  const T* group = input + static_cast<int64_t>(part.group) * work.elements_per_group;
  const HeldElements<T, kLength> held(group, part.first, part.count);
  const Moments found = held.moments(warp_sums);
  if (threadIdx.x == 0) {
    moments[blockIdx.x] = found;
  }
}

/// Moments of a number of elements.
struct CountedMoments {
  float count;
  Moments moments;

  /// Adds those of other elements.
  ///
  /// Source: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
  /// variances".
  __device__ __forceinline__ void merge(float other_count, const Moments& other) {
    const float total = count + other_count;
    if (total == 0.0F) {
      return;
    }
    const float share = other_count / total;
    const float difference = other.mean - moments.mean;
    moments.mean += difference * share;
    moments.squares += other.squares + difference * difference * (count * share);
    count = total;
  }

  __device__ __forceinline__ void merge_warp() {
#pragma unroll
    for (uint32_t distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      const float other_count = __shfl_down_sync(kAllLanes, count, distance);
      const Moments other = {__shfl_down_sync(kAllLanes, moments.mean, distance),
                             __shfl_down_sync(kAllLanes, moments.squares, distance)};
      merge(other_count, other);
    }
  }
};

/// One block a group: its parts' moments to its statistics, in an order that depends on nothing but their number.
__global__ void __launch_bounds__(kPartThreads)
    statistics_kernel(const Moments* moments, Statistics* statistics, uint32_t parts_per_group,
                      uint32_t elements_per_part, const __grid_constant__ GroupNormWork work) {
  constexpr uint32_t kWarps = kPartThreads / kWarpThreads;
  __shared__ CountedMoments of_warps[kWarps];
  CountedMoments sum = {0.0F, {0.0F, 0.0F}};
  for (uint32_t number = threadIdx.x; number < parts_per_group; number += kPartThreads) {
    const GroupPart part(work, number, parts_per_group, elements_per_part);
    sum.merge(static_cast<float>(part.count), moments[static_cast<int64_t>(blockIdx.x) * parts_per_group + number]);
  }
  sum.merge_warp();
  if (threadIdx.x % kWarpThreads == 0) {
    of_warps[threadIdx.x / kWarpThreads] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (uint32_t warp = 1; warp < kWarps; ++warp) {
      sum.merge(of_warps[warp].count, of_warps[warp].moments);
    }
    statistics[blockIdx.x] = statistics_of(sum.moments, work);
  }
}

/// One block a part, the last ones first: they are what the caches still hold.
template <class T, uint32_t kLength>
__global__ void __launch_bounds__(kPartThreads)
    normalize_parts_kernel(const T* input, T* output, const Statistics* statistics, uint32_t parts_per_group,
                           const __grid_constant__ GroupNormWork work) {
  const GroupPart part(work, gridDim.x - 1 - blockIdx.x, parts_per_group, kPartElements<kLength>);
  const int64_t start = static_cast<int64_t>(part.group) * work.elements_per_group;
  HeldElements<T, kLength> held(input + start, part.first, part.count);
  held.write(work, statistics[part.group], part.group % work.num_groups * work.channels_per_group, output + start);
}

struct Workspace {
  Moments* moments;
  Statistics* statistics;
  size_t size_bytes;

  Workspace(const GroupNormShape& shape, void* memory) {
    const int64_t parts = divide_up(shape.elements_per_group(), kSmallPart);
    WorkspaceParts parts_of_memory(memory);
    moments = parts_of_memory.take<Moments>(shape.groups() * parts);
    statistics = parts_of_memory.take<Statistics>(shape.groups());
    size_bytes = parts_of_memory.size_bytes();
  }
};

template <class T, uint32_t kLength>
cudaError_t launch(const GroupNormShape& shape, const GroupNormWork& work, GroupNormVariant variant, const T* input,
                   T* output, void* workspace, cudaStream_t stream) {
  const int64_t packs = shape.elements_per_group() / kLength;
  const int64_t groups = shape.groups();
  if (variant != GroupNormVariant::kParts && packs <= int64_t{kMaxThreads} * kPacks<kLength>) {
    if (groups > INT32_MAX) {
      return cudaErrorInvalidConfiguration;
    }
    const int64_t threads = divide_up(divide_up(packs, kPacks<kLength>), kWarpThreads) * kWarpThreads;
    group_norm_kernel<T, kLength>
        <<<static_cast<uint32_t>(groups), static_cast<uint32_t>(threads), 0, stream>>>(input, output, work);
    return cudaGetLastError();
  }
  const int64_t parts = divide_up(shape.elements_per_group(), kPartElements<kLength>);
  if (groups > INT32_MAX / parts) {
    return cudaErrorInvalidConfiguration;
  }
  const Workspace memory(shape, workspace);
  const uint32_t parts_per_group = static_cast<uint32_t>(parts);
  const uint32_t blocks = static_cast<uint32_t>(groups * parts);
  part_moments_kernel<T, kLength><<<blocks, kPartThreads, 0, stream>>>(input, memory.moments, parts_per_group, work);
  cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    return status;
  }
  statistics_kernel<<<static_cast<uint32_t>(groups), kPartThreads, 0, stream>>>(
      memory.moments, memory.statistics, parts_per_group, kPartElements<kLength>, work);
  status = cudaGetLastError();
  if (status != cudaSuccess) {
    return status;
  }
  normalize_parts_kernel<T, kLength>
      <<<blocks, kPartThreads, 0, stream>>>(input, output, memory.statistics, parts_per_group, work);
  return cudaGetLastError();
}

}  // namespace

bool has_variants(const GroupNormShape& shape) {
  // Below, a block's threads would be few, and a part the whole of a group.
  return shape.elements_per_group() > kSmallPart && shape.elements_per_group() <= kSmallGroup;
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
  const GroupNormWork work = {affine,
                              eps,
                              static_cast<uint32_t>(shape.num_groups),
                              static_cast<uint32_t>(shape.channels / shape.num_groups),
                              static_cast<uint32_t>(shape.spatial),
                              static_cast<uint32_t>(shape.elements_per_group())};
  return dispatch_element(type, [&](auto element) {
    using T = decltype(element);
    const T* from = static_cast<const T*>(input);
    T* to = static_cast<T*>(output);
    // Every group must start on 16 bytes.
    return is_widest_aligned(from) && is_widest_aligned(to) && shape.elements_per_group() % kWidest<T> == 0
               ? launch<T, kWidest<T>>(shape, work, variant, from, to, workspace, stream)
               : launch<T, 1>(shape, work, variant, from, to, workspace, stream);
  });
}

}  // namespace torch_trt_ext::plugins
