#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "retinanet/candidate_key.h"
#include "retinanet/heads.h"

namespace torch_trt_ext::plugins {

/// Bins of one histogram of keys.
constexpr uint32_t kKeyBins = 1024;

/// Most candidates that one block sorts in shared memory.
constexpr uint32_t kSortCapacity = 4096;

/// Threads of a block that reads scores, and the 16-byte loads that each of them has under way at once.
constexpr uint32_t kScanThreads = 256;
constexpr uint32_t kScanLoads = 4;

/// Keys among which the K-th best is: [low, high], divided into bins of 2^shift keys. The last bin has the rest.
struct KeyRange {
  CandidateKey low;
  CandidateKey high;
  uint32_t shift;
  /// Keys above `high`.
  uint32_t above;
};

/// The search for one image's cutoff in one level. Set by refine_kernel alone.
struct RefineState {
  KeyRange range;
  uint32_t done;
};

/// A level as the kernels see it.
struct LevelWork {
  const void* scores;
  const void* deltas;
  const float* anchors;
  /// [N, capacity]: the keys of selected scores, in any order.
  CandidateKey* keys;
  uint32_t num_anchors;
  uint32_t num_classes;
  uint32_t height;
  uint32_t width;
  uint32_t scores_per_image;
  uint32_t capacity;
  /// Blocks that an image's scores are dealt to, and the number of the level's first block.
  uint32_t chunks_per_image;
  uint32_t first_block;
  float stride;
  float image_height;
  float image_width;
};

/// What the kernels from scores to candidates work on: an argument of each. A pair is an image and a level, number
/// image * num_levels + level.
struct CandidateWork {
  LevelWork levels[kMaxLevels];
  uint32_t num_levels;
  uint32_t num_pairs;
  uint32_t num_scan_blocks;
  uint32_t topk;
  float score_thresh;
  /// No element of the heads that is not greater can be a candidate.
  float head_thresh;
  BoxConvention convention;
  ImageSizes image_sizes;
  /// Keys found a pair; may exceed the capacity until refine_kernel is done. Zero at first, like the next two.
  uint32_t* counts;
  uint32_t* num_overflowed;
  uint32_t* num_unresolved;
  /// Pairs that found more keys than they have room for, in any order.
  uint32_t* overflowed;
  /// One a pair of `overflowed`.
  RefineState* refine_states;
  uint32_t* histograms;
};

/// Where candidates go, [N, L * K] each; a null pointer is skipped.
struct CandidateOutputs {
  /// Every element written: zeros past a pair's last candidate.
  float* scores;
  /// Keys of (score, place among the image's L * K): each level's are sorted. Not written past the last candidate.
  CandidateKey* run_keys;
  /// [N, L]: candidates of each pair.
  uint32_t* run_counts;
  /// [N, L * K, 4] and [N, L * K]; zeros past the last candidate where `scores` is given.
  float* boxes;
  float* classes;
};

/// One read of all scores: collects the keys of those over the threshold and lists the pairs that overflow.
cudaError_t launch_scan(const CandidateWork& work, ElementType type, ScoreActivation activation, cudaStream_t stream);

/// Finds the K-th best key of every overflowed pair and collects the keys from there up. Returns at once, on the
/// device, when there is none.
cudaError_t launch_refine(const CandidateWork& work, ElementType type, ScoreActivation activation, cudaStream_t stream);

/// Sorts each pair's best K keys and decodes their boxes.
cudaError_t launch_select(const CandidateWork& work, ElementType type, const CandidateOutputs& outputs,
                          cudaStream_t stream);

/// Scratch of the three together for `heads` and any smaller ones. Monotone in every extent.
size_t candidate_workspace_bytes(const Heads& heads, int32_t topk_candidates);

/// Clears the counters in `workspace` and runs the three.
cudaError_t launch_candidates(const Heads& heads, const CandidateOptions& options, const CandidateOutputs& outputs,
                              void* workspace, cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
