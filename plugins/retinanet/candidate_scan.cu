#include "retinanet/candidate_work.h"
#include "retinanet/dispatch.h"
#include "retinanet/key_range.cuh"
#include "retinanet/score_tile.cuh"

namespace torch_trt_ext::plugins {
namespace {

/// Adds a block's keys to its pair's histogram: each by itself where they are few, else through `bins` in shared
/// memory, so that as many additions to one bin as there are equal scores do not wait for each other.
class KeyCounts {
 public:
  __device__ __forceinline__ KeyCounts(const CandidateWork& work, uint32_t pair, uint32_t* bins)
      : range_(whole_range(work.score_thresh)),
        histogram_(work.histograms + static_cast<int64_t>(pair) * kKeyBins),
        bins_(bins) {}

  __device__ __forceinline__ void begin(uint32_t found) {
    through_bins_ = found > kFewKeys;
    if (through_bins_) {
      for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kScanThreads) {
        bins_[bin] = 0;
      }
    }
  }

  __device__ __forceinline__ void add(CandidateKey key) {
    atomicAdd(&(through_bins_ ? bins_ : histogram_)[key_bin(range_, key)], 1U);
  }

  __device__ __forceinline__ void end() {
    if (through_bins_) {
      __syncthreads();
      for (uint32_t bin = threadIdx.x; bin < kKeyBins; bin += kScanThreads) {
        if (bins_[bin] != 0) {
          atomicAdd(&histogram_[bin], bins_[bin]);
        }
      }
    }
  }

 private:
  static constexpr uint32_t kFewKeys = 2 * kScanThreads;

  KeyRange range_;
  uint32_t* histogram_;
  uint32_t* bins_;
  bool through_bins_ = false;
};

/// One block a tile of one image's scores in one level: no loop, so that the blocks that wait to append are hidden
/// behind those that read.
template <class T, bool kSigmoid>
__global__ void __launch_bounds__(kScanThreads) scan_kernel(const __grid_constant__ CandidateWork work) {
  __shared__ uint32_t shared[2];
  __shared__ uint32_t bins[kKeyBins];
  uint32_t level_number = 0;
  while (level_number + 1 < work.num_levels && blockIdx.x >= work.levels[level_number + 1].first_block) {
    ++level_number;
  }
  const LevelWork& level = work.levels[level_number];
  const uint32_t block = blockIdx.x - level.first_block;
  const uint32_t image = block / level.chunks_per_image;
  const ScoreTile<T, kSigmoid> tile(work, level, image, block % level.chunks_per_image);
  const uint32_t pair = image * work.num_levels + level_number;
  append_candidates(work, level, image, pair, tile, 0, shared, KeyCounts(work, pair, bins));
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
