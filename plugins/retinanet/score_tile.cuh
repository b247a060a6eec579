#pragma once

#include <cuda_fp16.h>

#include <cfloat>
#include <cstdint>

#include "retinanet/candidate_work.h"

namespace torch_trt_ext::plugins {

/// Elements of one 16-byte load.
template <class T>
constexpr uint32_t kVectorLength = 16 / sizeof(T);

/// Scores that a block reads at once.
template <class T>
constexpr uint32_t kTileScores = kScanThreads * kScanLoads * kVectorLength<T>;

/// The sigmoid as docs/plugins.md defines it: compiled without fast math, so that each step is rounded.
__device__ __forceinline__ float sigmoid(float x) {
  return 1.0F / (1.0F + expf(-x));
}

/// A thread's part of one block's tile of an image's scores: kScanLoads vectors, each 16 bytes aligned in memory, a
/// block's side by side.
///
/// An image's slice need not start on 16 bytes, so vectors are counted from the 16-byte boundary at or before its
/// start: the first and the last may reach into a neighbour's slice. Tiles that have such are loaded element by
/// element.
template <class T, bool kSigmoid>
class ScoreTile {
 public:
  static constexpr uint32_t kScores = kScanLoads * kVectorLength<T>;

  __device__ __forceinline__ ScoreTile(const LevelWork& level, uint32_t image, uint32_t chunk) {
    const T* scores = static_cast<const T*>(level.scores) + static_cast<int64_t>(image) * level.scores_per_image;
    // Elements between the boundary and the slice.
    const int64_t lead = static_cast<int64_t>(reinterpret_cast<uintptr_t>(scores) % 16 / sizeof(T));
    const int64_t count = level.scores_per_image;
    const int64_t tile_first = static_cast<int64_t>(chunk) * kTileScores<T> - lead;
    const int64_t first = tile_first + threadIdx.x * kVectorLength<T>;
    first_ = static_cast<int32_t>(first);
    if (tile_first >= 0 && tile_first + kTileScores<T> <= count) {
      uint4 raw[kScanLoads];
#pragma unroll
      for (uint32_t load = 0; load < kScanLoads; ++load) {
        // Read once and never again: first to leave the caches.
        raw[load] = __ldcs(reinterpret_cast<const uint4*>(scores + first + load * kScanThreads * kVectorLength<T>));
      }
      memcpy(values_, raw, sizeof(raw));
      return;
    }
#pragma unroll
    for (uint32_t slot = 0; slot < kScores; ++slot) {
      const int64_t index = first + offset(slot);
      // Negative infinity is nobody's candidate.
      values_[slot] = index >= 0 && index < count ? scores[index] : static_cast<T>(-INFINITY);
    }
  }

  /// Quick: false says that the thread has no candidate.
  __device__ __forceinline__ bool may_have_candidates(const CandidateWork& work) const {
    bool any = false;
#pragma unroll
    for (uint32_t slot = 0; slot < kScores; ++slot) {
      any |= static_cast<float>(values_[slot]) > work.head_thresh;
    }
    return any;
  }

  /// The key of the thread's score number `slot`, 0 when it is no candidate. Exact, whatever head_thresh is.
  __device__ __forceinline__ CandidateKey key(const CandidateWork& work, uint32_t slot) const {
    const float value = static_cast<float>(values_[slot]);
    if (!(value > work.head_thresh) || !(value <= FLT_MAX)) {
      return 0;
    }
    const uint32_t index = static_cast<uint32_t>(first_) + offset(slot);
    return candidate_key(kSigmoid ? sigmoid(value) : value, index, work.score_thresh);
  }

 private:
  /// How far score number `slot` is from the thread's first.
  static __device__ constexpr uint32_t offset(uint32_t slot) {
    return slot / kVectorLength<T> * (kScanThreads * kVectorLength<T>)+slot % kVectorLength<T>;
  }

  T values_[kScores];
  /// Index in the image of the thread's first score; may be negative.
  int32_t first_;
};

/// Appends the tile's candidates whose keys are not below `cutoff` to the pair's keys. Called by all threads of the
/// block; `shared` has two elements, and the block must synchronize before it uses them for something else.
template <class Tile>
__device__ __forceinline__ void append_candidates(const CandidateWork& work, const LevelWork& level, uint32_t image,
                                                  uint32_t pair, const Tile& tile, CandidateKey cutoff,
                                                  uint32_t* shared) {
  static_assert(Tile::kScores <= 32, "a thread's candidates are a 32-bit mask");
  uint32_t& block_count = shared[0];
  uint32_t& block_start = shared[1];
  if (threadIdx.x == 0) {
    block_count = 0;
  }
  __syncthreads();
  uint32_t mask = 0;
  uint32_t slot = 0;
  if (tile.may_have_candidates(work)) {
#pragma unroll
    for (uint32_t score = 0; score < Tile::kScores; ++score) {
      const CandidateKey key = tile.key(work, score);
      mask |= key != 0 && key >= cutoff ? 1U << score : 0U;
    }
    if (mask != 0) {
      slot = atomicAdd(&block_count, static_cast<uint32_t>(__popc(mask)));
    }
  }
  __syncthreads();
  if (block_count == 0) {
    return;
  }
  if (threadIdx.x == 0) {
    const uint32_t before = atomicAdd(&work.counts[pair], block_count);
    block_start = before;
    // Exactly one block passes the limit.
    if (before <= level.capacity && before + block_count > level.capacity) {
      work.overflowed[atomicAdd(work.num_overflowed, 1U)] = pair;
    }
  }
  __syncthreads();
  if (mask == 0) {
    return;
  }
  slot += block_start;
  CandidateKey* keys = level.keys + static_cast<int64_t>(image) * level.capacity;
#pragma unroll
  for (uint32_t score = 0; score < Tile::kScores; ++score) {
    if ((mask >> score & 1U) != 0) {
      if (slot < level.capacity) {
        keys[slot] = tile.key(work, score);
      }
      ++slot;
    }
  }
}

}  // namespace torch_trt_ext::plugins
