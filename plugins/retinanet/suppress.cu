#include "retinanet/suppress.h"

#include "common/load_float.cuh"
#include "common/warp.h"
#include "retinanet/box_math.h"
#include "retinanet/dispatch.h"

namespace torch_trt_ext::plugins {
namespace {

constexpr uint32_t kBlockThreads = 1024;
/// Candidates that are settled together; the block's threads are this many candidates times kParts.
constexpr uint32_t kChunk = 256;
constexpr uint32_t kParts = kBlockThreads / kChunk;
/// 32-bit words of one bit a candidate.
constexpr uint32_t kChunkWords = kChunk / kWarpThreads;
/// Detections that are kept in shared memory; the others are read back from the outputs.
constexpr uint32_t kSharedDetections = 1024;

/// Boxes in shared memory. Threads of a warp mostly read the same one.
template <uint32_t kCount>
struct BoxList {
  float4 boxes[kCount];
  float areas[kCount];
  /// Aligned to be read four at a time.
  alignas(16) float classes[kCount];

  __device__ __forceinline__ void set(uint32_t index, Box box, float area, float class_id) {
    boxes[index] = make_float4(box.x1, box.y1, box.x2, box.y2);
    areas[index] = area;
    classes[index] = class_id;
  }

  __device__ __forceinline__ Box box(uint32_t index) const {
    const float4 box = boxes[index];
    return {box.x, box.y, box.z, box.w};
  }

  /// Which of the 32 boxes from `first` on have the class. A bit past the list's end may be set.
  __device__ __forceinline__ uint32_t class_mask(uint32_t first, float class_id) const {
    uint32_t mask = 0;
#pragma unroll
    for (uint32_t index = 0; index < kWarpThreads; index += 4) {
      const float4 four = *reinterpret_cast<const float4*>(&classes[first + index]);
      mask |= (four.x == class_id ? 1U : 0U) << index;
      mask |= (four.y == class_id ? 2U : 0U) << index;
      mask |= (four.z == class_id ? 4U : 0U) << index;
      mask |= (four.w == class_id ? 8U : 0U) << index;
    }
    return mask;
  }
};

struct SharedMemory {
  BoxList<kChunk> chunk;
  BoxList<kSharedDetections> kept;
  /// Bit j of suppressors[w][i]: candidate 32 * w + j of the chunk, which comes before i, goes over i if it is kept.
  uint32_t suppressors[kChunkWords][kChunk];
  /// One bit a candidate of the chunk.
  uint32_t kept_words[kChunkWords];
  uint32_t gone_words[kChunkWords];
  uint32_t count;
};

/// A candidate as it is read.
struct Candidate {
  Box box;
  float score;
  float class_id;
};

template <class T>
__device__ __forceinline__ Candidate load_candidate(const T* boxes, const T* classes, int64_t image_offset,
                                                    CandidateKey key) {
  const int64_t index = image_offset + key_index(key);
  Candidate candidate;
  candidate.score = key_score(key);
  candidate.class_id = load_float(classes, index);
  candidate.box = {load_float(boxes, index * 4), load_float(boxes, index * 4 + 1), load_float(boxes, index * 4 + 2),
                   load_float(boxes, index * 4 + 3)};
  return candidate;
}

/// The bits below `count` in a word that starts at bit `first`.
__device__ __forceinline__ uint32_t bits_below(uint32_t count, uint32_t first) {
  if (count <= first) {
    return 0;
  }
  return count - first >= kWarpThreads ? kAllLanes : (1U << (count - first)) - 1;
}

/// Bits of the 32 boxes of `list` from `first` on, among those in `allowed`, that have the class and overlap.
template <uint32_t kCount>
__device__ __forceinline__ uint32_t overlap_mask(const BoxList<kCount>& list, uint32_t first, uint32_t allowed, Box box,
                                                 float area, float class_id, const NmsOptions& options,
                                                 bool first_only) {
  uint32_t candidates = list.class_mask(first, class_id) & allowed;
  uint32_t found = 0;
  while (candidates != 0) {
    const uint32_t bit = static_cast<uint32_t>(__ffs(static_cast<int>(candidates))) - 1;
    candidates &= candidates - 1;
    const uint32_t other = first + bit;
    if (overlaps(options.convention, list.box(other), list.areas[other], box, area, options.nms_thresh)) {
      found |= 1U << bit;
      if (first_only) {
        break;
      }
    }
  }
  return found;
}

/// Whether one of the detections that `part` of the threads look at suppresses the box.
__device__ __forceinline__ bool suppressed_by_kept(const SharedMemory& shared, uint32_t kept, uint32_t part, Box box,
                                                   float area, float class_id, const NmsOptions& options,
                                                   const float* out_boxes, const float* out_classes) {
  const uint32_t shared_kept = min(kept, kSharedDetections);
  for (uint32_t first = part * kWarpThreads; first < shared_kept; first += kParts * kWarpThreads) {
    if (overlap_mask(shared.kept, first, bits_below(shared_kept, first), box, area, class_id, options, true) != 0) {
      return true;
    }
  }
  for (int64_t other = static_cast<int64_t>(kSharedDetections) + part; other < kept; other += kParts) {
    if (out_classes[other] == class_id) {
      const float* corners = out_boxes + other * 4;
      if (overlaps(options.convention, {corners[0], corners[1], corners[2], corners[3]}, box, options.nms_thresh)) {
        return true;
      }
    }
  }
  return false;
}

/// Settles the chunk: sets the bits of the candidates to keep in `shared.kept_words`. Called by all threads.
///
/// Greedy suppression keeps a candidate exactly if none that comes before it, overlaps it and is kept. So one is gone
/// as soon as a suppressor is kept, and kept as soon as all are gone. Each round settles at least the first that is
/// left, and usually nearly all: as many rounds are needed as boxes suppress each other in a row.
__device__ __forceinline__ void settle_chunk(SharedMemory& shared, bool open) {
  const uint32_t thread = threadIdx.x;
  uint32_t suppressors[kChunkWords];
#pragma unroll
  for (uint32_t word = 0; word < kChunkWords; ++word) {
    suppressors[word] = open ? shared.suppressors[word][thread] : 0;
  }
  while (true) {
    uint32_t by_kept = 0;
    uint32_t by_open = 0;
    if (thread < kChunk) {
#pragma unroll
      for (uint32_t word = 0; word < kChunkWords; ++word) {
        by_kept |= suppressors[word] & shared.kept_words[word];
        by_open |= suppressors[word] & ~shared.gone_words[word];
      }
    }
    const bool goes = open && by_kept != 0;
    const bool stays = open && by_open == 0;
    open = open && !goes && !stays;
    // Nobody may change the words before everybody has read them.
    __syncthreads();
    if (thread < kChunk) {
      const uint32_t gone = __ballot_sync(kAllLanes, goes);
      const uint32_t kept = __ballot_sync(kAllLanes, stays);
      if (thread % kWarpThreads == 0) {
        shared.gone_words[thread / kWarpThreads] |= gone;
        shared.kept_words[thread / kWarpThreads] |= kept;
      }
    }
    if (__syncthreads_or(open ? 1 : 0) == 0) {
      return;
    }
  }
}

/// One block an image. Takes the sorted candidates in chunks: drops those that earlier detections suppress, finds out
/// which of the chunk suppress which, and settles them all; ends when no candidate or no slot is left.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    suppress_kernel(const T* boxes, const T* classes, uint32_t candidates, NmsOptions options, SortedRuns runs,
                    const CandidateKey* order, Detections detections) {
  __shared__ SharedMemory shared;
  const uint32_t thread = threadIdx.x;
  const uint32_t mine = thread % kChunk;
  const uint32_t part = thread / kChunk;
  const int64_t image = blockIdx.x;
  const int64_t image_offset = image * candidates;
  const uint32_t max_detections = static_cast<uint32_t>(options.max_detections);
  const int64_t first_slot = image * max_detections;
  float* out_scores = detections.scores + first_slot;
  float* out_boxes = detections.boxes + first_slot * 4;
  float* out_classes = detections.classes + first_slot;
  const CandidateKey* image_order = order + image_offset;

  if (thread == 0) {
    shared.count = 0;
  }
  __syncthreads();
  for (uint32_t run = thread; run < runs.num_runs; run += kBlockThreads) {
    atomicAdd(&shared.count, runs.counts[image * runs.num_runs + run]);
  }
  __syncthreads();
  const uint32_t count = shared.count;

  // The first kChunk threads read ahead: a candidate one chunk, a key, which says where that is, two chunks.
  const bool reads = thread < kChunk;
  Candidate next = {};
  CandidateKey next_key = 0;
  if (reads && thread < count) {
    next = load_candidate(boxes, classes, image_offset, image_order[thread]);
  }
  if (reads && kChunk + thread < count) {
    next_key = image_order[kChunk + thread];
  }

  uint32_t kept = 0;
  for (uint32_t start = 0; start < count && kept < max_detections; start += kChunk) {
    const uint32_t filled = min(count - start, kChunk);
    const Candidate current = next;
    if (reads) {
      shared.chunk.set(thread, current.box, box_area(options.convention, current.box), current.class_id);
      if (next_key != 0) {
        next = load_candidate(boxes, classes, image_offset, next_key);
      }
      next_key = start + 2 * kChunk + thread < count ? image_order[start + 2 * kChunk + thread] : 0;
    }
    if (thread < kChunkWords) {
      shared.gone_words[thread] = 0;
      shared.kept_words[thread] = 0;
    }
    __syncthreads();

    const Box box = shared.chunk.box(mine);
    const float area = shared.chunk.areas[mine];
    const float class_id = shared.chunk.classes[mine];
    const bool goes =
        mine < filled && suppressed_by_kept(shared, kept, part, box, area, class_id, options, out_boxes, out_classes);
    const uint32_t gone = __ballot_sync(kAllLanes, goes);
    if (thread % kWarpThreads == 0 && gone != 0) {
      atomicOr(&shared.gone_words[mine / kWarpThreads], gone);
    }
#pragma unroll
    for (uint32_t word = part; word < kChunkWords; word += kParts) {
      // Only candidates before this one; those that are gone do no harm.
      const uint32_t before = mine < filled ? bits_below(mine, word * kWarpThreads) : 0;
      shared.suppressors[word][mine] =
          before == 0 ? 0
                      : overlap_mask(shared.chunk, word * kWarpThreads, before, box, area, class_id, options, false);
    }
    __syncthreads();

    const bool open = thread < filled && (shared.gone_words[thread / kWarpThreads] >> (thread % kWarpThreads) & 1) == 0;
    settle_chunk(shared, open);

    uint32_t slot = kept;
    uint32_t total = 0;
#pragma unroll
    for (uint32_t word = 0; word < kChunkWords; ++word) {
      const uint32_t keeps = shared.kept_words[word];
      slot += static_cast<uint32_t>(__popc(keeps & bits_below(thread, word * kWarpThreads)));
      total += static_cast<uint32_t>(__popc(keeps));
    }
    const bool stays = reads && (shared.kept_words[thread / kWarpThreads] >> (thread % kWarpThreads) & 1) != 0;
    if (stays && slot < max_detections) {
      out_scores[slot] = current.score;
      out_classes[slot] = current.class_id;
      float* corners = out_boxes + static_cast<int64_t>(slot) * 4;
      corners[0] = current.box.x1;
      corners[1] = current.box.y1;
      corners[2] = current.box.x2;
      corners[3] = current.box.y2;
      if (slot < kSharedDetections) {
        shared.kept.set(slot, current.box, area, current.class_id);
      }
    }
    kept = min(kept + total, max_detections);
    // The kept detections must be visible, and the chunk be done with, before the next chunk.
    __syncthreads();
  }

  if (thread == 0 && detections.counts != nullptr) {
    detections.counts[image] = static_cast<int32_t>(kept);
  }
  for (int64_t slot = static_cast<int64_t>(kept) + thread; slot < max_detections; slot += kBlockThreads) {
    out_scores[slot] = 0.0F;
    out_classes[slot] = 0.0F;
    for (int64_t corner = 0; corner < 4; ++corner) {
      out_boxes[slot * 4 + corner] = 0.0F;
    }
  }
}

}  // namespace

cudaError_t launch_suppress(const NmsShape& shape, const NmsOptions& options, const SortedRuns& runs,
                            const CandidateKey* order, ElementType type, const void* boxes, const void* classes,
                            const Detections& detections, cudaStream_t stream) {
  if (shape.batch > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  return dispatch_element(type, [&](auto element) {
    using T = decltype(element);
    suppress_kernel<T><<<static_cast<uint32_t>(shape.batch), kBlockThreads, 0, stream>>>(
        static_cast<const T*>(boxes), static_cast<const T*>(classes), static_cast<uint32_t>(shape.candidates), options,
        runs, order, detections);
    return cudaGetLastError();
  });
}

}  // namespace torch_trt_ext::plugins
