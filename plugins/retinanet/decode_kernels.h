#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "retinanet/box_convention.h"
#include "retinanet/element_type.h"

namespace torch_trt_ext::plugins {

/// One level's heads. `num_anchors` is A, `num_classes` C; A * C * H * W must not exceed kMaxScoresPerImage.
struct DecodeShape {
  int64_t batch;
  int64_t num_anchors;
  int64_t num_classes;
  int64_t height;
  int64_t width;

  int64_t scores_per_image() const { return num_anchors * num_classes * height * width; }
};

/// A candidate's index is 32 bits of its key, and loops over it must not wrap.
constexpr int64_t kMaxScoresPerImage = INT32_MAX;

struct DecodeOptions {
  int32_t topk_candidates;
  float score_thresh;
  int32_t stride;
  BoxConvention convention;
  /// Pixels to which kTorchvision clips.
  float image_height;
  float image_width;
};

/// Scratch that launch_decode needs for `shape` and any smaller one: 8 KiB and at most 8 * (topk_candidates +
/// max(topk_candidates, 1024)) bytes an image, whatever the size of the heads.
size_t decode_workspace_bytes(const DecodeShape& shape, int32_t topk_candidates);

/// Selects every image's best candidates and decodes their boxes.
///
/// All pointers are device memory, dense:
///   scores [N, A * C, H, W] and deltas [N, A * 4, H, W], of `type`; anchors [A, 4], float32;
///   out_scores [N, K], out_boxes [N, K, 4], out_classes [N, K], float32, K = topk_candidates, every element written;
///   workspace: decode_workspace_bytes, 16-byte aligned, contents irrelevant before and after.
/// Work is put on `stream`; the host is not blocked and nothing is allocated, so that it can be captured in a graph.
/// Same inputs give bit-equal outputs.
cudaError_t launch_decode(const DecodeShape& shape, const DecodeOptions& options, ElementType type, const void* scores,
                          const void* deltas, const float* anchors, float* out_scores, float* out_boxes,
                          float* out_classes, void* workspace, cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
