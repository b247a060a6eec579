#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "retinanet/heads.h"

namespace torch_trt_ext::plugins {

/// Scratch that launch_decode needs for `heads` and any smaller ones: a few KiB, and at most max(2 * topk_candidates,
/// 65536) keys of 8 bytes, an image and level; fewer keys in batches that would take more than 128 MiB for them.
size_t decode_workspace_bytes(const Heads& heads, int32_t topk_candidates);

/// Selects every image's best candidates in each level and decodes their boxes.
///
/// All pointers are device memory, dense:
///   out_scores [N, L * K], out_boxes [N, L * K, 4], out_classes [N, L * K], float32, K = topk_candidates, the levels
///   one after another, every element written; workspace: decode_workspace_bytes, 256-byte aligned, contents irrelevant
///   before and after.
/// Work is put on `stream`; the host is not blocked and nothing is allocated, so that it can be captured in a graph.
/// Same inputs give bit-equal outputs.
cudaError_t launch_decode(const Heads& heads, const CandidateOptions& options, float* out_scores, float* out_boxes,
                          float* out_classes, void* workspace, cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
