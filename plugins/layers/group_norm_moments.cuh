#pragma once

#include <cstdint>

#include "layers/group_norm_work.h"

namespace torch_trt_ext::plugins {

__device__ __forceinline__ uint32_t lane_index() {
  return threadIdx.x % kWarpThreads;
}
__device__ __forceinline__ uint32_t warp_index() {
  return threadIdx.x / kWarpThreads;
}

/// Mean of some elements, and the sum of their squared differences to it.
struct Moments {
  float mean;
  float squares;
};

/// Those of `count` elements, all 0 where there are none.
struct CountedMoments {
  float count;
  Moments moments;

  /// Adds those of other elements.
  ///
  /// Source: T. Chan, G. Golub, R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
  /// variances".
  __device__ __forceinline__ void merge(const CountedMoments& other) {
    const float total = count + other.count;
    if (total == 0.0F) {
      return;
    }
    const float share = other.count / total;
    const float difference = other.moments.mean - moments.mean;
    moments.mean += difference * share;
    moments.squares += other.moments.squares + difference * difference * (count * share);
    count = total;
  }

  __device__ __forceinline__ void merge_warp() {
#pragma unroll
    for (uint32_t distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      merge({__shfl_down_sync(kAllLanes, count, distance),
             {__shfl_down_sync(kAllLanes, moments.mean, distance),
              __shfl_down_sync(kAllLanes, moments.squares, distance)}});
    }
  }
};

/// A group's mean, and one over its standard deviation.
struct Statistics {
  float mean;
  float inverse_deviation;
};

/// The warp's sum, the same for all its threads.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (uint32_t distance = kWarpThreads / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

/// Moments of all elements that a table in shared memory tells of, `count` of them, the same for all threads that see
/// the same table; its first entry is of some elements, unless none is.
///
/// CountedMoments::merge for many sets at once. Means are added as differences to the first one, which costs a large
/// mean no digits.
__device__ __forceinline__ Moments merged(const CountedMoments* table, uint32_t entries, float count) {
  const float first_mean = table[0].moments.mean;
  float sum = 0.0F;
#pragma unroll 1
  for (uint32_t entry = lane_index(); entry < entries; entry += kWarpThreads) {
    sum = fmaf(table[entry].count, table[entry].moments.mean - first_mean, sum);
  }
  sum = warp_sum(sum);
  const float difference_to_first = count > 0.0F ? sum / count : 0.0F;
  float squares = 0.0F;
#pragma unroll 1
  for (uint32_t entry = lane_index(); entry < entries; entry += kWarpThreads) {
    const float difference = table[entry].moments.mean - first_mean - difference_to_first;
    squares += fmaf(table[entry].count * difference, difference, table[entry].moments.squares);
  }
  return {first_mean + difference_to_first, warp_sum(squares)};
}

__device__ __forceinline__ Statistics statistics_of(const Moments& moments, const GroupNormWork& work) {
  const float variance = moments.squares / static_cast<float>(work.elements_per_group);
  return {moments.mean, rsqrtf(variance + work.eps)};
}

}  // namespace torch_trt_ext::plugins
