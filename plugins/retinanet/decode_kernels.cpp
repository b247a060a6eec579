#include "retinanet/decode_kernels.h"

#include "retinanet/candidate_work.h"

namespace torch_trt_ext::plugins {

size_t decode_workspace_bytes(const Heads& heads, int32_t topk_candidates) {
  return candidate_workspace_bytes(heads, topk_candidates);
}

cudaError_t launch_decode(const Heads& heads, const CandidateOptions& options, float* out_scores, float* out_boxes,
                          float* out_classes, void* workspace, cudaStream_t stream) {
  if (heads.batch == 0) {
    return cudaSuccess;
  }
  const CandidateOutputs outputs = {out_scores, nullptr, nullptr, out_boxes, out_classes};
  return launch_candidates(heads, options, outputs, workspace, stream);
}

}  // namespace torch_trt_ext::plugins
