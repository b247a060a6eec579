#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "common/element_type.h"
#include "common/vector_access.cuh"
#include "layers/group_norm_moments.cuh"
#include "layers/group_norm_plan.h"
#include "layers/group_norm_work.h"

namespace torch_trt_ext::plugins {

/// Channels of a group whose scale and bias a block copies to its shared memory.
constexpr uint32_t kStagedChannels = 128;

/// Scale and bias of a group's channels. Threads may ask once the block has synchronized.
class GroupAffine {
 public:
  __device__ __forceinline__ GroupAffine(const GroupNormWork& work, uint32_t group, float2 (&staged)[kStagedChannels])
      : work_(work), staged_(staged), group_in_image_(group - work.by_num_groups(group) * work.num_groups) {
    if (is_staged()) {
      for (uint32_t channel = threadIdx.x; channel < work.channels_per_group; channel += blockDim.x) {
        staged_[channel] = load(channel);
      }
    }
  }

  /// `channel` is its number in the group.
  __device__ __forceinline__ float2 operator()(uint32_t channel) const {
    return is_staged() ? staged_[channel] : load(channel);
  }

 private:
  __device__ __forceinline__ bool is_staged() const { return work_.channels_per_group <= kStagedChannels; }

  __device__ __forceinline__ float2 load(uint32_t channel) const {
    const size_t index = static_cast<size_t>(group_in_image_) * work_.channels_per_group + channel;
    return work_.affine.type == ElementType::kFloat16 ? load_of<__half>(index) : load_of<float>(index);
  }
  template <class T>
  __device__ __forceinline__ float2 load_of(size_t index) const {
    // Both are on their way before one is needed.
    const T scale = static_cast<const T*>(work_.affine.scale)[index];
    const T bias = static_cast<const T*>(work_.affine.bias)[index];
    return {to_float(scale), to_float(bias)};
  }

  const GroupNormWork& work_;
  float2 (&staged_)[kStagedChannels];
  uint32_t group_in_image_;
};

/// A pack's elements.
template <uint32_t kLength>
struct Floats {
  float values[kLength];
};

template <class T, uint32_t kLength>
__device__ __forceinline__ Floats<kLength> unpack(const Pack<T, kLength>& pack) {
  Floats<kLength> floats;
  if constexpr (sizeof(T) == 2 && kLength > 1) {
#pragma unroll
    for (uint32_t element = 0; element < kLength; element += 2) {
      const float2 pair = __half22float2(__halves2half2(pack.values[element], pack.values[element + 1]));
      floats.values[element] = pair.x;
      floats.values[element + 1] = pair.y;
    }
  } else {
#pragma unroll
    for (uint32_t element = 0; element < kLength; ++element) {
      floats.values[element] = to_float(pack.values[element]);
    }
  }
  return floats;
}

template <class T, uint32_t kLength>
__device__ __forceinline__ Pack<T, kLength> to_pack(const Floats<kLength>& floats) {
  Pack<T, kLength> pack;
  if constexpr (sizeof(T) == 2 && kLength > 1) {
#pragma unroll
    for (uint32_t element = 0; element < kLength; element += 2) {
      const __half2 pair = __floats2half2_rn(floats.values[element], floats.values[element + 1]);
      pack.values[element] = __low2half(pair);
      pack.values[element + 1] = __high2half(pair);
    }
  } else {
#pragma unroll
    for (uint32_t element = 0; element < kLength; ++element) {
      pack.values[element] = from_float<T>(floats.values[element]);
    }
  }
  return pack;
}

/// The elements of a group that a block holds: each thread packs in registers, the last kInShared of them in shared
/// memory, and at most one edge.
template <class T, uint32_t kLength, uint32_t kInShared>
class HeldElements {
 public:
  using Elements = Pack<T, kLength>;

  /// Loads them; `shared` has kInShared packs a thread.
  __device__ __forceinline__ HeldElements(const GroupNormWork& work, const BlockSpan& block, const T* group,
                                          Elements* shared)
      : block_(block), thread_(work, block, threadIdx.x), shared_(shared) {
    if constexpr (kInShared > 0) {
      shared_ += warp_index() * (kInShared * kWarpThreads) + lane_index();
    }
    const Elements* from = reinterpret_cast<const Elements*>(group + first_position());
    if constexpr (kInShared > 0) {
#pragma unroll 2
      for (uint32_t number = kInRegisters; number < kPacks; ++number) {
        if (thread_.holds(number)) {
          copy_async(in_shared(number), from + number * kWarpThreads);
        }
      }
    }
#pragma unroll
    for (uint32_t number = 0; number < kInRegisters; ++number) {
      if (thread_.holds(number)) {
        packs_[number] = from[number * kWarpThreads];
      }
    }
    if (has_edge()) {
      edge_ = group[block_.edge_position(work, threadIdx.x)];
    }
  }

  /// Moments of the warp's elements, the same for all its threads.
  __device__ __forceinline__ CountedMoments warp_moments() const {
    const float count =
        static_cast<float>(thread_.packs_of_warp * kLength + (kLength > 1 && warp_index() == 0 ? block_.edges : 0));
    if constexpr (kInShared > 0) {
      // A thread reads only what it copied itself.
      asm volatile("cp.async.wait_all;" ::: "memory");
    }
    const float sum = warp_sum(thread_sum([](float sum, float x) { return sum + x; }));
    const float mean = count > 0.0F ? sum / count : 0.0F;
    const float squares = thread_sum([mean](float sum, float x) { return fmaf(x - mean, x - mean, sum); });
    return {count, {mean, warp_sum(squares)}};
  }

  /// Writes the elements, normalized, to where they are in `group`.
  __device__ __forceinline__ void write(const GroupNormWork& work, const Statistics& statistics,
                                        const GroupAffine& affine, T* group) const {
    const uint32_t first = first_position();
    Elements* to = reinterpret_cast<Elements*>(group + first);
    for_each_pack([&](uint32_t number, const Elements& pack) {
      Floats<kLength> floats = unpack(pack);
      normalize(work, statistics, affine, first + number * (kWarpThreads * kLength), floats);
      to[number * kWarpThreads] = to_pack<T>(floats);
    });
    if (has_edge()) {
      const uint32_t position = block_.edge_position(work, threadIdx.x);
      Floats<1> floats = {{to_float(edge_)}};
      normalize(work, statistics, affine, position, floats);
      group[position] = from_float<T>(floats.values[0]);
    }
  }

 private:
  static constexpr uint32_t kPacks = kInShared > 0 ? kPacksWithShared : register_packs(kLength);
  static constexpr uint32_t kInRegisters = kPacks - kInShared;

  /// 16 bytes from device memory to shared memory, for which nothing waits.
  static __device__ __forceinline__ void copy_async(Elements* to, const Elements* from) {
    const uint32_t shared_address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address), "l"(__cvta_generic_to_global(from))
                 : "memory");
  }

  /// Of the thread's first element in the group.
  __device__ __forceinline__ uint32_t first_position() const { return block_.first + thread_.first * kLength; }
  __device__ __forceinline__ bool has_edge() const { return kLength > 1 && threadIdx.x < block_.edges; }
  __device__ __forceinline__ Elements* in_shared(uint32_t number) const {
    return shared_ + (number - kInRegisters) * kWarpThreads;
  }

  /// Calls `visit(number, pack)` for each of the thread's packs.
  template <class Visit>
  __device__ __forceinline__ void for_each_pack(Visit&& visit) const {
#pragma unroll
    for (uint32_t number = 0; number < kInRegisters; ++number) {
      if (thread_.holds(number)) {
        visit(number, packs_[number]);
      }
    }
    if constexpr (kInShared > 0) {
      // Memory, unlike registers, can be gone through by a loop, which takes fewer of them.
#pragma unroll 2
      for (uint32_t number = kInRegisters; number < kPacks; ++number) {
        if (thread_.holds(number)) {
          visit(number, *in_shared(number));
        }
      }
    }
  }

  /// Adds the thread's elements up, `add(sum, element)` by `add(sum, element)`.
  template <class Add>
  __device__ __forceinline__ float thread_sum(Add&& add) const {
    float sums[2] = {0.0F, 0.0F};
    for_each_pack([&](uint32_t, const Elements& pack) {
      const Floats<kLength> floats = unpack(pack);
#pragma unroll
      for (uint32_t element = 0; element < kLength; ++element) {
        sums[element % 2] = add(sums[element % 2], floats.values[element]);
      }
    });
    if (has_edge()) {
      sums[0] = add(sums[0], to_float(edge_));
    }
    return sums[0] + sums[1];
  }

  /// `position` is the first element's place in the group.
  template <uint32_t kCount>
  static __device__ __forceinline__ void normalize(const GroupNormWork& work, const Statistics& statistics,
                                                   const GroupAffine& affine, uint32_t position,
                                                   Floats<kCount>& floats) {
    uint32_t channel = work.by_spatial(position);
    // The channel's elements are those up to this one.
    uint32_t end = (channel + 1) * work.spatial - position;
    float2 scale_and_bias = affine(channel);
    float scale = scale_and_bias.x * statistics.inverse_deviation;
    if (kCount == 1 || end >= kCount) {
#pragma unroll
      for (float& x : floats.values) {
        x = fmaf(x - statistics.mean, scale, scale_and_bias.y);
      }
    } else {
      uint32_t first = 0;
#pragma unroll 1
      while (true) {
#pragma unroll
        for (uint32_t element = 0; element < kCount; ++element) {
          if (element >= first && element < end) {
            floats.values[element] = fmaf(floats.values[element] - statistics.mean, scale, scale_and_bias.y);
          }
        }
        if (end >= kCount) {
          break;
        }
        first = end;
        end += work.spatial;
        scale_and_bias = affine(++channel);
        scale = scale_and_bias.x * statistics.inverse_deviation;
      }
    }
  }

  BlockSpan block_;
  ThreadSpan thread_;
  Elements* shared_;
  Elements packs_[kInRegisters];
  T edge_ = from_float<T>(0.0F);
};

}  // namespace torch_trt_ext::plugins
