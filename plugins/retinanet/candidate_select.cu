#include <algorithm>

#include "retinanet/candidate_work.h"
#include "retinanet/candidate_write.cuh"
#include "retinanet/dispatch.h"
#include "retinanet/key_sort.cuh"

namespace torch_trt_ext::plugins {
namespace {

constexpr uint32_t kRankThreads = 256;

__device__ __forceinline__ const CandidateKey* pair_keys(const CandidateWork& work, const LevelWork& level,
                                                         uint32_t pair) {
  return level.keys + static_cast<int64_t>(pair / work.num_levels) * level.capacity;
}

/// Calls `visit` for each of `count` keys, by any of the block's threads.
///
/// A block alone has to read tens of thousands: each thread has several loads under way before it looks at the first.
template <class Visit>
__device__ __forceinline__ void for_each_key(const CandidateKey* keys, uint32_t count, Visit&& visit) {
  constexpr uint32_t kLoads = 8;
  for (uint32_t start = threadIdx.x; start < count; start += kLoads * kSortThreads) {
    CandidateKey loaded[kLoads];
#pragma unroll
    for (uint32_t load = 0; load < kLoads; ++load) {
      const uint32_t index = start + load * kSortThreads;
      // Nobody's key is 0.
      loaded[load] = index < count ? __ldcg(&keys[index]) : 0;
    }
#pragma unroll
    for (uint32_t load = 0; load < kLoads; ++load) {
      if (loaded[load] != 0) {
        visit(loaded[load]);
      }
    }
  }
}

/// A key that no more than kSortCapacity of the pair's keys, but at least K, are not below.
__device__ CandidateKey find_cutoff(const CandidateWork& work, const CandidateKey* keys, uint32_t count,
                                    SortMemory& memory) {
  KeyRange range = whole_range(work.score_thresh);
  for (uint32_t round = 0; round < kMaxRounds; ++round) {
    for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kSortThreads) {
      memory.bins[bin] = 0;
    }
    __syncthreads();
    for_each_key(keys, count, [&](CandidateKey key) {
      if (key >= range.low && key <= range.high) {
        atomicAdd(&memory.bins[key_bin(range, key)], 1U);
      }
    });
    __syncthreads();
    const BinChoice chosen =
        choose_bin<kSortThreads>(memory.bins, memory.warp_sums, &memory.choice, work.topk - range.above);
    range = narrow_range(range, chosen.bin, range.above + chosen.keys_above);
    if (range.above + chosen.keys <= kSortCapacity) {
      break;
    }
  }
  return range.low;
}

/// One block a pair, for K up to kSortCapacity: brings the keys from a cutoff up into shared memory and sorts them.
template <class T>
__global__ void __launch_bounds__(kSortThreads, 1)
    select_kernel(const __grid_constant__ CandidateWork work, const __grid_constant__ CandidateOutputs outputs) {
  __shared__ SortMemory memory;
  const uint32_t pair = blockIdx.x;
  const LevelWork& level = work.levels[pair % work.num_levels];
  const uint32_t count = min(work.counts[pair], level.capacity);
  const CandidateKey* keys = pair_keys(work, level, pair);
  uint32_t taken = count;
  if (count > kSortCapacity) {
    const CandidateKey cutoff = find_cutoff(work, keys, count, memory);
    if (threadIdx.x == 0) {
      memory.count = 0;
    }
    __syncthreads();
    for_each_key(keys, count, [&](CandidateKey key) {
      if (key >= cutoff) {
        const uint32_t place = atomicAdd(&memory.count, 1U);
        if (place < kSortCapacity) {
          memory.keys[place] = key;
        }
      }
    });
    __syncthreads();
    taken = min(memory.count, kSortCapacity);
  } else {
    for (uint32_t index = threadIdx.x; index < count; index += kSortThreads) {
      memory.keys[index] = keys[index];
    }
    __syncthreads();
  }
  sort_keys(memory, taken, work.topk,
            [&](CandidateKey key, uint32_t place) { write_candidate<T>(work, level, pair, key, place, outputs); });
  pad_candidates(work, pair, static_cast<int64_t>(count) + threadIdx.x, kSortThreads, outputs);
  if (threadIdx.x == 0 && outputs.run_counts != nullptr) {
    outputs.run_counts[pair] = min(count, work.topk);
  }
}

/// For larger K: one thread a key. Its place is the number of keys above it, since keys are unique.
template <class T>
__global__ void __launch_bounds__(kRankThreads)
    rank_kernel(const __grid_constant__ CandidateWork work, uint32_t blocks_per_pair,
                const __grid_constant__ CandidateOutputs outputs) {
  __shared__ CandidateKey tile[kRankThreads];
  const uint32_t pair = blockIdx.x / blocks_per_pair;
  const uint32_t block_start = blockIdx.x % blocks_per_pair * kRankThreads;
  const uint32_t mine = block_start + threadIdx.x;
  const LevelWork& level = work.levels[pair % work.num_levels];
  const uint32_t count = min(work.counts[pair], level.capacity);
  const CandidateKey* keys = pair_keys(work, level, pair);
  if (block_start < count) {
    const CandidateKey key = mine < count ? keys[mine] : 0;
    uint32_t place = 0;
    for (uint32_t start = 0; start < count; start += kRankThreads) {
      // Keys of 0 are above nobody, so a partly filled tile needs no bound.
      tile[threadIdx.x] = start + threadIdx.x < count ? keys[start + threadIdx.x] : 0;
      __syncthreads();
#pragma unroll 8
      for (uint32_t other = 0; other < kRankThreads; ++other) {
        place += tile[other] > key ? 1 : 0;
      }
      __syncthreads();
    }
    if (mine < count && place < work.topk) {
      write_candidate<T>(work, level, pair, key, place, outputs);
    }
  }
  if (mine >= count) {
    pad_candidates(work, pair, mine, blocks_per_pair * kRankThreads, outputs);
  }
  if (mine == 0 && outputs.run_counts != nullptr) {
    outputs.run_counts[pair] = min(count, work.topk);
  }
}

}  // namespace

cudaError_t launch_select(const CandidateWork& work, ElementType type, const CandidateOutputs& outputs,
                          cudaStream_t stream) {
  if (work.topk <= kSortCapacity) {
    return dispatch_element(type, [&](auto element) {
      select_kernel<decltype(element)><<<work.num_pairs, kSortThreads, 0, stream>>>(work, outputs);
      return cudaGetLastError();
    });
  }
  uint32_t capacity = work.topk;
  for (uint32_t level = 0; level < work.num_levels; ++level) {
    capacity = std::max(capacity, work.levels[level].capacity);
  }
  const uint32_t blocks_per_pair = (capacity - 1) / kRankThreads + 1;
  if (work.num_pairs > INT32_MAX / blocks_per_pair) {
    return cudaErrorInvalidConfiguration;
  }
  return dispatch_element(type, [&](auto element) {
    rank_kernel<decltype(element)>
        <<<work.num_pairs * blocks_per_pair, kRankThreads, 0, stream>>>(work, blocks_per_pair, outputs);
    return cudaGetLastError();
  });
}

}  // namespace torch_trt_ext::plugins
