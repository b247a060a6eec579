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

/// Number of the lowest set bit; there must be one.
__device__ __forceinline__ uint32_t lowest_bit(uint32_t bits) {
  return static_cast<uint32_t>(__ffs(static_cast<int>(bits))) - 1;
}

/// What tells quickly which of a head's elements can be candidates, four bytes of them at a time. Exact, whatever the
/// type.
template <class T>
class HeadThreshold;

template <>
class HeadThreshold<float> {
 public:
  __device__ __forceinline__ explicit HeadThreshold(float threshold) : threshold_(threshold) {}

  /// Bit `number` when the element is greater.
  __device__ __forceinline__ uint32_t greater(uint32_t word, uint32_t number) const {
    return __uint_as_float(word) > threshold_ ? 1U << number : 0;
  }

 private:
  float threshold_;
};

template <>
class HeadThreshold<__half> {
 public:
  // A half is greater than a number exactly if it is greater than the largest half that is not above the number.
  __device__ __forceinline__ explicit HeadThreshold(float threshold)
      : threshold_(__half2half2(__float2half_rd(threshold))) {}

  /// Bit `number` when the word's first element is greater, bit `number` + 16 when its second is.
  __device__ __forceinline__ uint32_t greater(uint32_t word, uint32_t number) const {
    __half2 both;
    memcpy(&both, &word, sizeof(both));
    return __hgt2_mask(both, threshold_) & 0x00010001U << number;
  }

 private:
  __half2 threshold_;
};

/// A thread's part of one block's tile of an image's scores: kScanLoads vectors, each 16 bytes aligned in memory, a
/// block's side by side. Keeps which of them may be candidates, and reads those again when it is asked for their keys:
/// they are few, and still in the cache.
///
/// An image's slice need not start on 16 bytes, so vectors are counted from the 16-byte boundary at or before its
/// start: the first and the last may reach into a neighbour's slice. Tiles that have such are loaded element by
/// element.
template <class T, bool kSigmoid>
class ScoreTile {
 public:
  __device__ __forceinline__ ScoreTile(const CandidateWork& work, const LevelWork& level, uint32_t image,
                                       uint32_t chunk)
      : scores_(static_cast<const T*>(level.scores) + static_cast<int64_t>(image) * level.scores_per_image) {
    // Elements between the boundary and the slice.
    const int64_t lead = static_cast<int64_t>(reinterpret_cast<uintptr_t>(scores_) % 16 / sizeof(T));
    const int64_t count = level.scores_per_image;
    const int64_t tile_first = static_cast<int64_t>(chunk) * kTileScores<T> - lead;
    const int64_t first = tile_first + threadIdx.x * kVectorLength<T>;
    first_ = static_cast<int32_t>(first);
    if (tile_first >= 0 && tile_first + kTileScores<T> <= count) {
      uint4 vectors[kScanLoads];
#pragma unroll
      for (uint32_t load = 0; load < kScanLoads; ++load) {
        // Read once, but for the candidates: first to leave the caches.
        vectors[load] =
            __ldcs(reinterpret_cast<const uint4*>(scores_ + first + load * kScanThreads * kVectorLength<T>));
      }
      const HeadThreshold<T> threshold(work.head_thresh);
#pragma unroll
      for (uint32_t load = 0; load < kScanLoads; ++load) {
        mask_ |= threshold.greater(vectors[load].x, load * 4);
        mask_ |= threshold.greater(vectors[load].y, load * 4 + 1);
        mask_ |= threshold.greater(vectors[load].z, load * 4 + 2);
        mask_ |= threshold.greater(vectors[load].w, load * 4 + 3);
      }
      return;
    }
#pragma unroll 1
    for (uint32_t first_slot = 0; first_slot < kSlots; first_slot += kWords) {
      T values[kWords];
#pragma unroll
      for (uint32_t word = 0; word < kWords; ++word) {
        const int64_t index = first + offset(first_slot + word);
        // Negative infinity is nobody's candidate.
        values[word] = index >= 0 && index < count ? scores_[index] : static_cast<T>(-INFINITY);
      }
#pragma unroll
      for (uint32_t word = 0; word < kWords; ++word) {
        mask_ |= static_cast<float>(values[word]) > work.head_thresh ? 1U << (first_slot + word) : 0;
      }
    }
  }

  /// One bit for each of the thread's scores, in no particular order: those that may be candidates.
  __device__ __forceinline__ uint32_t may_be_candidates() const { return mask_; }

  /// The key of the score whose bit in may_be_candidates() is number `slot`, 0 when it is no candidate after all.
  __device__ __forceinline__ CandidateKey key(const CandidateWork& work, uint32_t slot) const {
    const uint32_t index = static_cast<uint32_t>(first_) + offset(slot);
    const float value = static_cast<float>(scores_[index]);
    // An infinite logit would have a finite score.
    if (!(value <= FLT_MAX)) {
      return 0;
    }
    return candidate_key(kSigmoid ? sigmoid(value) : value, index, work.score_thresh);
  }

 private:
  static constexpr uint32_t kElementsPerWord = 4 / sizeof(T);
  static constexpr uint32_t kWords = 4 * kScanLoads;
  static constexpr uint32_t kSlots = kWords * kElementsPerWord;
  static_assert(kWords == 16, "HeadThreshold puts a word's second element 16 bits above its first");

  /// How far the score of bit `slot` is from the thread's first.
  static __device__ __forceinline__ uint32_t offset(uint32_t slot) {
    const uint32_t word = slot % kWords;
    return word / 4 * (kScanThreads * kVectorLength<T>)+word % 4 * kElementsPerWord + slot / kWords;
  }

  const T* scores_;
  /// Index in the image of the thread's first score; may be negative.
  int32_t first_;
  uint32_t mask_ = 0;
};

/// Appends the tile's candidates whose keys are not below `cutoff` to the pair's keys. Called by all threads of the
/// block; `shared` has two elements, and the block must synchronize before it uses them for something else.
template <class Tile>
__device__ __forceinline__ void append_candidates(const CandidateWork& work, const LevelWork& level, uint32_t image,
                                                  uint32_t pair, const Tile& tile, CandidateKey cutoff,
                                                  uint32_t* shared) {
  uint32_t& block_count = shared[0];
  uint32_t& block_start = shared[1];
  if (threadIdx.x == 0) {
    block_count = 0;
  }
  __syncthreads();
  uint32_t mask = 0;
  uint32_t slot = 0;
  for (uint32_t left = tile.may_be_candidates(); left != 0; left &= left - 1) {
    const uint32_t score = lowest_bit(left);
    const CandidateKey key = tile.key(work, score);
    mask |= key != 0 && key >= cutoff ? 1U << score : 0U;
  }
  if (mask != 0) {
    slot = atomicAdd(&block_count, static_cast<uint32_t>(__popc(mask)));
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
  slot += block_start;
  CandidateKey* keys = level.keys + static_cast<int64_t>(image) * level.capacity;
  for (; mask != 0 && slot < level.capacity; mask &= mask - 1) {
    keys[slot] = tile.key(work, lowest_bit(mask));
    ++slot;
  }
}

}  // namespace torch_trt_ext::plugins
