#pragma once

#include <cstdint>

#include "retinanet/key_range.cuh"

namespace torch_trt_ext::plugins {

constexpr uint32_t kSortThreads = 1024;
constexpr uint32_t kKeysPerThread = kSortCapacity / kSortThreads;

/// Shared memory of a block that sorts; below the 48 KiB that every device gives without being asked.
struct SortMemory {
  CandidateKey keys[kSortCapacity];
  uint32_t bins[kKeyBins];
  uint16_t order[kSortCapacity];
  CandidateKey warp_low[kSortThreads / kWarpThreads];
  CandidateKey warp_high[kSortThreads / kWarpThreads];
  uint32_t warp_sums[kSortThreads / kWarpThreads];
  uint32_t count;
  BinChoice choice;
};

/// Lowest and highest of the block's `count` keys, at least one.
__device__ __forceinline__ KeyRange range_of_keys(SortMemory& memory, uint32_t count) {
  CandidateKey low = ~CandidateKey{0};
  CandidateKey high = 0;
  for (uint32_t index = threadIdx.x; index < count; index += kSortThreads) {
    const CandidateKey key = memory.keys[index];
    low = min(low, key);
    high = max(high, key);
  }
  const auto reduce = [&] {
#pragma unroll
    for (uint32_t distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      low = min(low, __shfl_xor_sync(kAllLanes, low, distance));
      high = max(high, __shfl_xor_sync(kAllLanes, high, distance));
    }
  };
  reduce();
  const uint32_t lane = threadIdx.x % kWarpThreads;
  if (lane == 0) {
    memory.warp_low[threadIdx.x / kWarpThreads] = low;
    memory.warp_high[threadIdx.x / kWarpThreads] = high;
  }
  __syncthreads();
  low = memory.warp_low[lane];
  high = memory.warp_high[lane];
  reduce();
  return {low, high, bin_shift(low, high), 0};
}

/// Sorts in place, the highest first, in a number of steps that does not depend on the keys.
__device__ __forceinline__ void bitonic_sort(SortMemory& memory, uint32_t count) {
  uint32_t size = 2;
  while (size < count) {
    size *= 2;
  }
  for (uint32_t index = count + threadIdx.x; index < size; index += kSortThreads) {
    memory.keys[index] = 0;
  }
  __syncthreads();
  for (uint32_t run = 2; run <= size; run *= 2) {
    for (uint32_t distance = run / 2; distance > 0; distance /= 2) {
      for (uint32_t pair = threadIdx.x; pair < size / 2; pair += kSortThreads) {
        const uint32_t first = pair / distance * distance * 2 + pair % distance;
        const uint32_t second = first + distance;
        const CandidateKey a = memory.keys[first];
        const CandidateKey b = memory.keys[second];
        const bool highest_first = (first & run) == 0;
        if ((a < b) == highest_first) {
          memory.keys[first] = b;
          memory.keys[second] = a;
        }
      }
      __syncthreads();
    }
  }
}

/// Finds the places of `memory.keys[0..count)`, which are unique and not 0, when sorted with the highest first, and
/// calls `visit(key, place)` for those whose place is below `needed`. Called by all kSortThreads threads of the block,
/// synchronized; may reorder keys.
///
/// Keys are dealt to 1024 bins between the lowest and the highest; a key's place is the number of keys in higher bins
/// plus the number of higher keys in its own, which are a few. Where they are many, as when scores repeat, the block
/// sorts by comparing, unless nobody needs them: scores crowd just over the threshold.
template <class Visit>
__device__ __forceinline__ void sort_keys(SortMemory& memory, uint32_t count, uint32_t needed, Visit&& visit) {
  // With as many in every bin, counting takes as long as comparing does.
  constexpr uint32_t kMaxKeysPerBin = 128;
  if (count == 0) {
    return;
  }
  for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kSortThreads) {
    memory.bins[bin] = 0;
  }
  // Synchronizes, too.
  const KeyRange range = range_of_keys(memory, count);
  uint32_t bins[kKeysPerThread];
  uint32_t arrivals[kKeysPerThread];
#pragma unroll
  for (uint32_t slot = 0; slot < kKeysPerThread; ++slot) {
    const uint32_t index = threadIdx.x + slot * kSortThreads;
    bins[slot] = 0;
    arrivals[slot] = 0;
    if (index < count) {
      bins[slot] = key_bin(range, memory.keys[index]);
      arrivals[slot] = atomicAdd(&memory.bins[bins[slot]], 1U);
    }
  }
  __syncthreads();
  bool crowded = false;
  scan_bins_from_top<kSortThreads>(memory.bins, memory.warp_sums, [&](uint32_t, uint32_t keys, uint32_t keys_above) {
    crowded |= keys > kMaxKeysPerBin && keys_above < needed;
  });
#pragma unroll
  for (uint32_t slot = 0; slot < kKeysPerThread; ++slot) {
    const uint32_t index = threadIdx.x + slot * kSortThreads;
    if (index < count) {
      memory.order[memory.bins[bins[slot]] + arrivals[slot]] = static_cast<uint16_t>(index);
    }
  }
  if (__syncthreads_or(crowded ? 1 : 0) != 0) {
    bitonic_sort(memory, count);
    for (uint32_t index = threadIdx.x; index < min(count, needed); index += kSortThreads) {
      visit(memory.keys[index], index);
    }
    return;
  }
#pragma unroll
  for (uint32_t slot = 0; slot < kKeysPerThread; ++slot) {
    const uint32_t index = threadIdx.x + slot * kSortThreads;
    if (index < count && memory.bins[bins[slot]] < needed) {
      const CandidateKey key = memory.keys[index];
      const uint32_t first = memory.bins[bins[slot]];
      const uint32_t last = bins[slot] == 0 ? count : memory.bins[bins[slot] - 1];
      uint32_t place = first;
      for (uint32_t other = first; other < last; ++other) {
        place += memory.keys[memory.order[other]] > key ? 1 : 0;
      }
      if (place < needed) {
        visit(key, place);
      }
    }
  }
}

}  // namespace torch_trt_ext::plugins
