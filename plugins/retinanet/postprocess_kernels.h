#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "retinanet/heads.h"
#include "retinanet/nms_kernels.h"

namespace torch_trt_ext::plugins {

/// Scratch that launch_postprocess needs for `heads` and any smaller ones: decode_workspace_bytes, and 36 bytes for
/// each of the L * topk_candidates candidates of an image.
size_t postprocess_workspace_bytes(const Heads& heads, int32_t topk_candidates);

/// launch_decode and launch_nms in one: the heads of all levels to detections, equal to theirs. The same promises hold.
/// L * topk_candidates must not exceed kMaxCandidatesPerImage, and both options must name one box convention.
cudaError_t launch_postprocess(const Heads& heads, const CandidateOptions& candidate_options,
                               const NmsOptions& nms_options, const Detections& detections, void* workspace,
                               cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
