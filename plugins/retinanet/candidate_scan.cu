#include "retinanet/candidate_work.h"
#include "retinanet/dispatch.h"
#include "retinanet/score_tile.cuh"

namespace torch_trt_ext::plugins {
namespace {

/// One block a tile of one image's scores in one level: no loop, so that the blocks that wait to append are hidden
/// behind those that read.
template <class T, bool kSigmoid>
__global__ void __launch_bounds__(kScanThreads) scan_kernel(const __grid_constant__ CandidateWork work) {
  __shared__ uint32_t shared[2];
  uint32_t level_number = 0;
  while (level_number + 1 < work.num_levels && blockIdx.x >= work.levels[level_number + 1].first_block) {
    ++level_number;
  }
  const LevelWork& level = work.levels[level_number];
  const uint32_t block = blockIdx.x - level.first_block;
  const uint32_t image = block / level.chunks_per_image;
  const ScoreTile<T, kSigmoid> tile(work, level, image, block % level.chunks_per_image);
  append_candidates(work, level, image, image * work.num_levels + level_number, tile, 0, shared);
}

}  // namespace

cudaError_t launch_scan(const CandidateWork& work, ElementType type, ScoreActivation activation, cudaStream_t stream) {
  return dispatch_scores(type, activation, [&](auto element, auto is_sigmoid) {
    scan_kernel<decltype(element), decltype(is_sigmoid)::value>
        <<<work.num_scan_blocks, kScanThreads, 0, stream>>>(work);
    return cudaGetLastError();
  });
}

}  // namespace torch_trt_ext::plugins
