#include "retinanet/postprocess_kernels.h"

#include "common/workspace.h"
#include "retinanet/candidate_work.h"
#include "retinanet/suppress.h"

namespace torch_trt_ext::plugins {
namespace {

struct Workspace {
  CandidateKey* run_keys;
  CandidateKey* order;
  uint32_t* run_counts;
  float* boxes;
  float* classes;
  void* rest;
  size_t size_bytes;

  Workspace(const Heads& heads, int64_t topk_candidates, void* memory) {
    const int64_t pairs = heads.batch * heads.num_levels;
    const int64_t candidates = pairs * topk_candidates;
    WorkspaceParts parts(memory);
    run_keys = parts.take<CandidateKey>(candidates);
    order = parts.take<CandidateKey>(candidates);
    run_counts = parts.take<uint32_t>(pairs);
    boxes = parts.take<float>(4 * candidates);
    classes = parts.take<float>(candidates);
    rest = parts.rest();
    size_bytes = parts.size_bytes();
  }
};

}  // namespace

size_t postprocess_workspace_bytes(const Heads& heads, int32_t topk_candidates) {
  return Workspace(heads, topk_candidates, nullptr).size_bytes + candidate_workspace_bytes(heads, topk_candidates);
}

cudaError_t launch_postprocess(const Heads& heads, const CandidateOptions& candidate_options,
                               const NmsOptions& nms_options, const Detections& detections, void* workspace,
                               cudaStream_t stream) {
  const NmsShape shape = {heads.batch, static_cast<int64_t>(heads.num_levels) * candidate_options.topk_candidates};
  if (nms_options.max_detections < 1 || shape.candidates > kMaxCandidatesPerImage) {
    return cudaErrorInvalidValue;
  }
  if (heads.batch == 0) {
    return cudaSuccess;
  }
  const Workspace memory(heads, candidate_options.topk_candidates, workspace);
  const CandidateOutputs outputs = {nullptr, memory.run_keys, memory.run_counts, memory.boxes, memory.classes};
  cudaError_t status = launch_candidates(heads, candidate_options, outputs, memory.rest, stream);
  if (status != cudaSuccess) {
    return status;
  }
  const SortedRuns runs = {memory.run_keys, memory.run_counts, static_cast<uint32_t>(heads.num_levels),
                           static_cast<uint32_t>(candidate_options.topk_candidates)};
  // One level is in order as it is.
  const bool merges = heads.num_levels > 1;
  if (merges) {
    status = launch_merge(shape, runs, memory.order, stream);
  }
  if (status != cudaSuccess) {
    return status;
  }
  return launch_suppress(shape, nms_options, runs, merges ? memory.order : memory.run_keys, ElementType::kFloat32,
                         memory.boxes, memory.classes, detections, stream);
}

}  // namespace torch_trt_ext::plugins
