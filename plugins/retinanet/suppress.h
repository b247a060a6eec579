#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "retinanet/candidate_key.h"
#include "retinanet/nms_kernels.h"

namespace torch_trt_ext::plugins {

/// Each image's candidates as sorted runs of keys (score, index in the image), the highest first, device memory:
/// `keys` [N, candidates], run r of an image from r * run_length on; `counts` [N, num_runs], keys that each run has.
struct SortedRuns {
  const CandidateKey* keys;
  const uint32_t* counts;
  uint32_t num_runs;
  uint32_t run_length;
};

/// Merges each image's runs into `order`, [N, shape.candidates], whose entries past the last key are not written.
cudaError_t launch_merge(const NmsShape& shape, const SortedRuns& runs, CandidateKey* order, cudaStream_t stream);

/// Keeps the detections among candidates in `order`; `boxes` [N, M, 4] and `classes` [N, M] are of `type`.
/// An image has as many candidates as its runs together.
cudaError_t launch_suppress(const NmsShape& shape, const NmsOptions& options, const SortedRuns& runs,
                            const CandidateKey* order, ElementType type, const void* boxes, const void* classes,
                            const Detections& detections, cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
