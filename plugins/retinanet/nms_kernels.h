#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/element_type.h"
#include "retinanet/box_convention.h"

namespace torch_trt_ext::plugins {

/// `candidates` is M, at most kMaxCandidatesPerImage.
struct NmsShape {
  int64_t batch;
  int64_t candidates;
};

/// A candidate's index is 32 bits of its key, and loops over it must not wrap.
constexpr int64_t kMaxCandidatesPerImage = INT32_MAX;

struct NmsOptions {
  float nms_thresh;
  int32_t max_detections;
  BoxConvention convention;
};

/// Detections of each image, device memory, dense: [N, D], [N, D, 4], [N, D] and [N], D = max_detections, every element
/// written: zeros past the last detection. `counts` may be null.
struct Detections {
  float* scores;
  float* boxes;
  float* classes;
  int32_t* counts;
};

/// Scratch that launch_nms needs for `shape` and any smaller one: about 16 bytes a candidate.
size_t nms_workspace_bytes(const NmsShape& shape);

/// Greedy non-maximum suppression within each image and class, best score first, equal scores by index.
///
/// All pointers are device memory, dense:
///   scores [N, M], boxes [N, M, 4], classes [N, M], of `type`; a candidate counts if 0 < score < infinity;
///   workspace: nms_workspace_bytes, 256-byte aligned, contents irrelevant before and after.
/// Outputs must not overlap inputs. Work is put on `stream`; the host is not blocked and nothing is allocated, so that
/// it can be captured in a graph. Same inputs give bit-equal outputs.
cudaError_t launch_nms(const NmsShape& shape, const NmsOptions& options, ElementType type, const void* scores,
                       const void* boxes, const void* classes, const Detections& detections, void* workspace,
                       cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
