#pragma once

#include <cstdint>

#include "common/warp.h"
#include "retinanet/candidate_work.h"

namespace torch_trt_ext::plugins {

/// The least shift that maps [low, high] to kKeyBins bins.
__device__ __forceinline__ uint32_t bin_shift(CandidateKey low, CandidateKey high) {
  constexpr int kBinBits = 10;
  static_assert(kKeyBins == 1U << kBinBits, "kBinBits is the logarithm of kKeyBins");
  const int bits = 64 - __clzll(static_cast<int64_t>(high - low));
  return bits > kBinBits ? static_cast<uint32_t>(bits - kBinBits) : 0;
}

/// All keys that a score over `score_thresh` can have. The bins are laid for scores of at most 1: whatever is above
/// falls into the last one, which costs such scores another round and nobody else anything.
__device__ __forceinline__ KeyRange whole_range(float score_thresh) {
  const auto lowest_key = [](float score) { return static_cast<CandidateKey>(__float_as_uint(score)) << 32; };
  // Not the bits of -0.
  const CandidateKey low = score_thresh > 0.0F ? lowest_key(score_thresh) : 0;
  return {low, ~CandidateKey{0} >> 1, bin_shift(low, lowest_key(1.0F) | 0xFFFFFFFFU), 0};
}

/// The bin of a key that is not below `range.low`.
__device__ __forceinline__ uint32_t key_bin(const KeyRange& range, CandidateKey key) {
  const CandidateKey bin = (key - range.low) >> range.shift;
  return bin < kKeyBins ? static_cast<uint32_t>(bin) : kKeyBins - 1;
}

/// The keys of one bin of `range`, when `above` keys are above that bin.
__device__ __forceinline__ KeyRange narrow_range(const KeyRange& range, uint32_t bin, uint32_t above) {
  KeyRange inner;
  inner.low = range.low + (static_cast<CandidateKey>(bin) << range.shift);
  const CandidateKey last = inner.low + ((CandidateKey{1} << range.shift) - 1);
  inner.high = bin == kKeyBins - 1 || last > range.high ? range.high : last;
  inner.shift = bin_shift(inner.low, inner.high);
  inner.above = above;
  return inner;
}

/// Rounds of narrowing after which a bin holds a single key: 10 bits of 63 each, and one for scores above 1. Whoever
/// lets another stream write to the keys meanwhile gets wrong answers after as many, but no kernel that never ends.
constexpr uint32_t kMaxRounds = 8;

/// A bin and the number of keys in it and above it. Aligned, so that compilers that load it in one piece load nothing
/// of what lies beside it, which other threads may write to.
struct alignas(16) BinChoice {
  uint32_t bin;
  uint32_t keys;
  uint32_t keys_above;
};

/// Replaces each bin's count by the number of keys in the bins above it. Called by all threads of a block; `warp_sums`
/// has one element a warp. Ends synchronized.
///
/// `visit(bin, keys, keys_above)` is called once for every bin, by its thread.
template <uint32_t kThreads, class Visit>
__device__ __forceinline__ void scan_bins_from_top(uint32_t* bins, uint32_t* warp_sums, Visit&& visit) {
  static_assert(kKeyBins % kThreads == 0, "threads have equal numbers of bins");
  constexpr uint32_t kBinsPerThread = kKeyBins / kThreads;
  constexpr uint32_t kWarps = kThreads / kWarpThreads;
  const uint32_t lane = threadIdx.x % kWarpThreads;
  const uint32_t warp = threadIdx.x / kWarpThreads;
  const uint32_t top_bin = kKeyBins - 1 - threadIdx.x * kBinsPerThread;

  uint32_t counts[kBinsPerThread];
  uint32_t sum = 0;
#pragma unroll
  for (uint32_t index = 0; index < kBinsPerThread; ++index) {
    counts[index] = bins[top_bin - index];
    sum += counts[index];
  }
  uint32_t inclusive = sum;
#pragma unroll
  for (uint32_t distance = 1; distance < kWarpThreads; distance *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, inclusive, distance);
    inclusive += lane >= distance ? other : 0;
  }
  if (lane == kWarpThreads - 1) {
    warp_sums[warp] = inclusive;
  }
  __syncthreads();
  // Every warp adds up the warps before it: cheaper than one more barrier.
  uint32_t before = lane < warp && lane < kWarps ? warp_sums[lane] : 0;
#pragma unroll
  for (uint32_t distance = kWarpThreads / 2; distance > 0; distance /= 2) {
    before += __shfl_xor_sync(kAllLanes, before, distance);
  }
  uint32_t above = before + inclusive - sum;
#pragma unroll
  for (uint32_t index = 0; index < kBinsPerThread; ++index) {
    bins[top_bin - index] = above;
    visit(top_bin - index, counts[index], above);
    above += counts[index];
  }
  __syncthreads();
}

/// The bin that holds the `needed`-th key from the top; at least that many must be there. As above; destroys `bins`.
template <uint32_t kThreads>
__device__ __forceinline__ BinChoice choose_bin(uint32_t* bins, uint32_t* warp_sums, BinChoice* choice,
                                                uint32_t needed) {
  scan_bins_from_top<kThreads>(bins, warp_sums, [&](uint32_t bin, uint32_t keys, uint32_t keys_above) {
    // True for one bin of all.
    if (keys_above < needed && needed <= keys_above + keys) {
      *choice = {bin, keys, keys_above};
    }
  });
  return *choice;
}

}  // namespace torch_trt_ext::plugins
