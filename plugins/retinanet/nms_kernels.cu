#include "retinanet/nms_kernels.h"

#include <algorithm>

#include "retinanet/box_math.h"
#include "retinanet/candidate_key.h"
#include "retinanet/load_float.cuh"

namespace torch_trt_ext::plugins {
namespace {

constexpr uint32_t kBlockThreads = 256;
constexpr uint32_t kWarpThreads = 32;
constexpr uint32_t kBlockWarps = kBlockThreads / kWarpThreads;
constexpr size_t kAlignment = 256;

/// Places of the parts of the workspace: how many candidates count in each image, then their order.
struct WorkspaceLayout {
  size_t cleared_bytes;
  size_t order_offset;
  size_t total_bytes;

  explicit WorkspaceLayout(const NmsShape& shape) {
    const size_t images = static_cast<size_t>(shape.batch);
    cleared_bytes = images * sizeof(uint32_t);
    order_offset = (cleared_bytes + kAlignment - 1) / kAlignment * kAlignment;
    total_bytes = order_offset + images * static_cast<size_t>(shape.candidates) * sizeof(uint32_t);
  }
};

/// Sorts by counting: a candidate's place is the number of keys above its own, since keys are unique.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    rank_kernel(const T* scores, uint32_t candidates, uint32_t blocks_per_image, uint32_t* counts, uint32_t* order) {
  __shared__ CandidateKey tile[kBlockThreads];
  const int64_t image = blockIdx.x / blocks_per_image;
  const uint32_t mine = blockIdx.x % blocks_per_image * kBlockThreads + threadIdx.x;
  const int64_t image_offset = image * candidates;
  const CandidateKey key =
      mine < candidates ? candidate_key(load_float(scores, image_offset + mine), mine, 0.0F) : CandidateKey{0};
  const int valid = __syncthreads_count(key != 0);
  if (valid == 0) {
    return;
  }
  if (threadIdx.x == 0) {
    atomicAdd(&counts[image], static_cast<uint32_t>(valid));
  }
  uint32_t rank = 0;
  for (uint32_t start = 0; start < candidates; start += kBlockThreads) {
    // Keys of 0 are above nobody, so a partly filled tile needs no bound.
    const uint32_t other_index = start + threadIdx.x;
    tile[threadIdx.x] = other_index < candidates
                            ? candidate_key(load_float(scores, image_offset + other_index), other_index, 0.0F)
                            : CandidateKey{0};
    __syncthreads();
#pragma unroll 8
    for (uint32_t other = 0; other < kBlockThreads; ++other) {
      rank += tile[other] > key ? 1 : 0;
    }
    __syncthreads();
  }
  if (key != 0) {
    order[image_offset + rank] = mine;
  }
}

/// A block's candidates or kept detections, one a thread.
struct BoxTile {
  Box boxes[kBlockThreads];
  float classes[kBlockThreads];
};

__device__ __forceinline__ bool suppresses(const BoxTile& kept, uint32_t slot, Box box, float class_id,
                                           const NmsOptions& options) {
  return kept.classes[slot] == class_id && overlaps(options.convention, kept.boxes[slot], box, options.nms_thresh);
}

/// One block an image. Takes the sorted candidates in chunks of one a thread: drops those that detections of earlier
/// chunks suppress, then keeps the chunk's best survivor again and again until none is left or all slots are filled.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    suppress_kernel(const T* scores, const T* boxes, const T* classes, uint32_t candidates, NmsOptions options,
                    const uint32_t* counts, const uint32_t* order, float* out_scores, float* out_boxes,
                    float* out_classes) {
  __shared__ BoxTile chunk;
  __shared__ BoxTile earlier;
  __shared__ uint32_t survivors[kBlockWarps];

  const int64_t image = blockIdx.x;
  const uint32_t thread = threadIdx.x;
  const uint32_t max_detections = static_cast<uint32_t>(options.max_detections);
  const uint32_t count = counts[image];
  const int64_t image_offset = image * candidates;
  const int64_t first_slot = image * max_detections;
  uint32_t kept = 0;

  for (uint32_t chunk_start = 0; chunk_start < count && kept < max_detections; chunk_start += kBlockThreads) {
    bool alive = chunk_start + thread < count;
    float score = 0.0F;
    float class_id = 0.0F;
    Box box = {0.0F, 0.0F, 0.0F, 0.0F};
    if (alive) {
      const int64_t candidate = image_offset + order[image_offset + chunk_start + thread];
      score = load_float(scores, candidate);
      class_id = load_float(classes, candidate);
      box = {load_float(boxes, candidate * 4), load_float(boxes, candidate * 4 + 1),
             load_float(boxes, candidate * 4 + 2), load_float(boxes, candidate * 4 + 3)};
    }
    chunk.boxes[thread] = box;
    chunk.classes[thread] = class_id;

    for (uint32_t start = 0; start < kept; start += kBlockThreads) {
      const uint32_t filled = min(kept - start, kBlockThreads);
      if (thread < filled) {
        const int64_t slot = first_slot + start + thread;
        earlier.boxes[thread] = {out_boxes[slot * 4], out_boxes[slot * 4 + 1], out_boxes[slot * 4 + 2],
                                 out_boxes[slot * 4 + 3]};
        earlier.classes[thread] = out_classes[slot];
      }
      __syncthreads();
      for (uint32_t other = 0; alive && other < filled; ++other) {
        alive = !suppresses(earlier, other, box, class_id, options);
      }
      __syncthreads();
    }

    while (kept < max_detections) {
      const uint32_t warp_survivors = __ballot_sync(0xFFFFFFFFU, alive);
      if (thread % kWarpThreads == 0) {
        survivors[thread / kWarpThreads] = warp_survivors;
      }
      // Also makes `chunk` visible before its first use.
      __syncthreads();
      uint32_t best = kBlockThreads;
      for (uint32_t warp = 0; warp < kBlockWarps && best == kBlockThreads; ++warp) {
        if (survivors[warp] != 0) {
          best = warp * kWarpThreads + static_cast<uint32_t>(__ffs(static_cast<int>(survivors[warp]))) - 1;
        }
      }
      // Nobody may go on and change `survivors` or `chunk` before everybody has read `survivors`.
      __syncthreads();
      if (best == kBlockThreads) {
        break;
      }
      if (thread == best) {
        const int64_t slot = first_slot + kept;
        out_scores[slot] = score;
        out_classes[slot] = class_id;
        out_boxes[slot * 4] = box.x1;
        out_boxes[slot * 4 + 1] = box.y1;
        out_boxes[slot * 4 + 2] = box.x2;
        out_boxes[slot * 4 + 3] = box.y2;
        alive = false;
      } else if (alive) {
        alive = !suppresses(chunk, best, box, class_id, options);
      }
      ++kept;
    }
    // The kept detections must be visible, and `chunk` be done with, before the next chunk.
    __syncthreads();
  }

  for (int64_t slot = static_cast<int64_t>(kept) + thread; slot < max_detections; slot += kBlockThreads) {
    out_scores[first_slot + slot] = 0.0F;
    out_classes[first_slot + slot] = 0.0F;
    for (int64_t corner = 0; corner < 4; ++corner) {
      out_boxes[(first_slot + slot) * 4 + corner] = 0.0F;
    }
  }
}

template <class T>
cudaError_t launch_nms_typed(const NmsShape& shape, const NmsOptions& options, const T* scores, const T* boxes,
                             const T* classes, float* out_scores, float* out_boxes, float* out_classes, char* workspace,
                             cudaStream_t stream) {
  const WorkspaceLayout layout(shape);
  auto* counts = reinterpret_cast<uint32_t*>(workspace);
  auto* order = reinterpret_cast<uint32_t*>(workspace + layout.order_offset);
  const auto candidates = static_cast<uint32_t>(shape.candidates);
  const int64_t blocks_per_image = std::max<int64_t>(1, (shape.candidates + kBlockThreads - 1) / kBlockThreads);
  if (shape.batch > INT32_MAX / blocks_per_image) {
    return cudaErrorInvalidConfiguration;
  }
  cudaError_t status = cudaMemsetAsync(workspace, 0, layout.cleared_bytes, stream);
  if (status != cudaSuccess) {
    return status;
  }
  rank_kernel<T><<<static_cast<uint32_t>(shape.batch * blocks_per_image), kBlockThreads, 0, stream>>>(
      scores, candidates, static_cast<uint32_t>(blocks_per_image), counts, order);
  status = cudaGetLastError();
  if (status != cudaSuccess) {
    return status;
  }
  suppress_kernel<T><<<static_cast<uint32_t>(shape.batch), kBlockThreads, 0, stream>>>(
      scores, boxes, classes, candidates, options, counts, order, out_scores, out_boxes, out_classes);
  return cudaGetLastError();
}

}  // namespace

size_t nms_workspace_bytes(const NmsShape& shape) {
  return WorkspaceLayout(shape).total_bytes;
}

cudaError_t launch_nms(const NmsShape& shape, const NmsOptions& options, ElementType type, const void* scores,
                       const void* boxes, const void* classes, float* out_scores, float* out_boxes, float* out_classes,
                       void* workspace, cudaStream_t stream) {
  if (shape.candidates > kMaxCandidatesPerImage || options.max_detections < 1) {
    return cudaErrorInvalidValue;
  }
  if (shape.batch == 0) {
    return cudaSuccess;
  }
  auto* scratch = static_cast<char*>(workspace);
  if (type == ElementType::kFloat16) {
    return launch_nms_typed(shape, options, static_cast<const __half*>(scores), static_cast<const __half*>(boxes),
                            static_cast<const __half*>(classes), out_scores, out_boxes, out_classes, scratch, stream);
  }
  return launch_nms_typed(shape, options, static_cast<const float*>(scores), static_cast<const float*>(boxes),
                          static_cast<const float*>(classes), out_scores, out_boxes, out_classes, scratch, stream);
}

}  // namespace torch_trt_ext::plugins
