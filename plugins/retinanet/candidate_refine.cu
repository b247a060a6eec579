#include <cooperative_groups.h>

#include "common/once_a_device.h"
#include "retinanet/candidate_work.h"
#include "retinanet/dispatch.h"
#include "retinanet/key_range.cuh"
#include "retinanet/score_tile.cuh"

namespace torch_trt_ext::plugins {
namespace {

/// Deals the tiles of one pair after another to the blocks of the grid in turn, so that a large level and many small
/// ones both keep all of them busy.
class TileDealer {
 public:
  /// The first of the calling block's tiles among the pair's `tiles`; the others follow at distances of gridDim.x.
  __device__ __forceinline__ uint32_t first(uint32_t tiles) {
    const uint32_t mine = blockIdx.x >= next_block_ ? blockIdx.x - next_block_ : blockIdx.x + gridDim.x - next_block_;
    next_block_ = (next_block_ + tiles % gridDim.x) % gridDim.x;
    return mine;
  }

 private:
  uint32_t next_block_ = 0;
};

/// Adds the tile's keys that are in `range` to the block's histogram.
template <class Tile>
__device__ __forceinline__ void count_keys(const CandidateWork& work, const KeyRange& range, const Tile& tile,
                                           uint32_t* bins) {
  // Neighbours often share a bin when scores are many and equal: one addition for all of them.
  uint32_t bin = 0;
  uint32_t equal = 0;
  for (uint32_t left = tile.may_be_candidates(); left != 0; left &= left - 1) {
    const CandidateKey key = tile.key(work, lowest_bit(left));
    if (key != 0 && key >= range.low && key <= range.high) {
      const uint32_t this_bin = key_bin(range, key);
      if (this_bin != bin && equal != 0) {
        atomicAdd(&bins[bin], equal);
        equal = 0;
      }
      bin = this_bin;
      ++equal;
    }
  }
  if (equal != 0) {
    atomicAdd(&bins[bin], equal);
  }
}

/// Narrows one pair's range to the bin that holds its K-th best key, and clears the pair's histogram. The search is
/// over when the keys from there up fit.
__device__ void narrow_pair(const CandidateWork& work, uint32_t entry, uint32_t* bins, uint32_t* warp_sums,
                            BinChoice* choice) {
  RefineState& state = work.refine_states[entry];
  if (__ldcg(&state.done) != 0) {
    return;
  }
  uint32_t* histogram = work.histograms + static_cast<int64_t>(entry) * kKeyBins;
  for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kScanThreads) {
    bins[bin] = __ldcg(&histogram[bin]);
    histogram[bin] = 0;
  }
  __syncthreads();
  const KeyRange range = state.range;
  const BinChoice chosen = choose_bin<kScanThreads>(bins, warp_sums, choice, work.topk - range.above);
  if (threadIdx.x == 0) {
    const uint32_t pair = __ldcg(&work.overflowed[entry]);
    const KeyRange inner = narrow_range(range, chosen.bin, range.above + chosen.keys_above);
    state.range = inner;
    if (inner.above + chosen.keys <= work.levels[pair % work.num_levels].capacity) {
      state.done = 1;
      work.counts[pair] = 0;
      atomicSub(work.num_unresolved, 1U);
    }
  }
  __syncthreads();
}

/// All blocks of the grid are on the device at once and wait for each other between the steps.
///
/// Every round reads the scores of the pairs that are left and narrows their ranges 1024-fold, usually once: most keys
/// differ in the first ten bits that can differ. The last read collects.
template <class T, bool kSigmoid>
__global__ void __launch_bounds__(kScanThreads) refine_kernel(const __grid_constant__ CandidateWork work) {
  __shared__ uint32_t bins[kKeyBins];
  __shared__ uint32_t warp_sums[kScanThreads / kWarpThreads];
  __shared__ BinChoice choice;
  __shared__ uint32_t shared[2];

  const uint32_t entries = __ldcg(work.num_overflowed);
  if (entries == 0) {
    return;
  }
  const auto grid = cooperative_groups::this_grid();
  const auto pair_level = [&](uint32_t pair) -> const LevelWork& { return work.levels[pair % work.num_levels]; };
  for (uint32_t entry = blockIdx.x; entry < entries; entry += gridDim.x) {
    for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kScanThreads) {
      work.histograms[static_cast<int64_t>(entry) * kKeyBins + bin] = 0;
    }
    if (threadIdx.x == 0) {
      work.refine_states[entry].range = whole_range(work.score_thresh);
      work.refine_states[entry].done = 0;
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    *work.num_unresolved = entries;
  }
  grid.sync();

  for (uint32_t round = 0; round < kMaxRounds && __ldcg(work.num_unresolved) != 0; ++round) {
    TileDealer dealer;
    for (uint32_t entry = 0; entry < entries; ++entry) {
      const RefineState& state = work.refine_states[entry];
      if (__ldcg(&state.done) != 0) {
        continue;
      }
      const uint32_t pair = __ldcg(&work.overflowed[entry]);
      const LevelWork& level = pair_level(pair);
      const uint32_t first = dealer.first(level.chunks_per_image);
      if (first >= level.chunks_per_image) {
        continue;
      }
      const KeyRange range = state.range;
      for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kScanThreads) {
        bins[bin] = 0;
      }
      __syncthreads();
      for (uint32_t chunk = first; chunk < level.chunks_per_image; chunk += gridDim.x) {
        const ScoreTile<T, kSigmoid> tile(work, level, pair / work.num_levels, chunk);
        count_keys(work, range, tile, bins);
      }
      __syncthreads();
      uint32_t* histogram = work.histograms + static_cast<int64_t>(entry) * kKeyBins;
      for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kScanThreads) {
        if (bins[bin] != 0) {
          atomicAdd(&histogram[bin], bins[bin]);
        }
      }
      __syncthreads();
    }
    grid.sync();
    for (uint32_t entry = blockIdx.x; entry < entries; entry += gridDim.x) {
      narrow_pair(work, entry, bins, warp_sums, &choice);
    }
    grid.sync();
  }

  TileDealer dealer;
  for (uint32_t entry = 0; entry < entries; ++entry) {
    const uint32_t pair = __ldcg(&work.overflowed[entry]);
    const LevelWork& level = pair_level(pair);
    const CandidateKey cutoff = work.refine_states[entry].range.low;
    const uint32_t first = dealer.first(level.chunks_per_image);
    for (uint32_t chunk = first; chunk < level.chunks_per_image; chunk += gridDim.x) {
      const ScoreTile<T, kSigmoid> tile(work, level, pair / work.num_levels, chunk);
      append_candidates(work, level, pair / work.num_levels, pair, tile, cutoff, shared);
      // `shared` is written again for the next tile.
      __syncthreads();
    }
  }
}

/// Blocks of the kernel that fit on the current device at once.
template <class T, bool kSigmoid>
cudaError_t resident_blocks(int& blocks) {
  static OnceADevice<int> known;
  return known.get(blocks, [](int device, int& found) {
    int multiprocessors = 0;
    const cudaError_t status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (status != cudaSuccess) {
      return status;
    }
    int blocks_per_multiprocessor = 0;
    const cudaError_t asked = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &blocks_per_multiprocessor, refine_kernel<T, kSigmoid>, static_cast<int>(kScanThreads), 0);
    found = multiprocessors * blocks_per_multiprocessor;
    return asked;
  });
}

}  // namespace

cudaError_t launch_refine(const CandidateWork& work, ElementType type, ScoreActivation activation,
                          cudaStream_t stream) {
  return dispatch_scores(type, activation, [&](auto element, auto is_sigmoid) {
    using T = decltype(element);
    constexpr bool kSigmoid = decltype(is_sigmoid)::value;
    int blocks = 0;
    const cudaError_t status = resident_blocks<T, kSigmoid>(blocks);
    if (status != cudaSuccess) {
      return status;
    }
    void* arguments[] = {const_cast<CandidateWork*>(&work)};
    return cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(&refine_kernel<T, kSigmoid>),
                                       dim3(static_cast<unsigned>(blocks)), dim3(kScanThreads), arguments, 0, stream);
  });
}

}  // namespace torch_trt_ext::plugins
