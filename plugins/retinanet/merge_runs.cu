#include "retinanet/suppress.h"

namespace torch_trt_ext::plugins {
namespace {

constexpr uint32_t kMergeThreads = 256;
/// Runs that a thread searches at once, so that their loads overlap.
constexpr uint32_t kSearches = 4;

/// One thread a key: its place is its place in its own run plus the number of higher keys in the others.
__global__ void __launch_bounds__(kMergeThreads)
    merge_kernel(SortedRuns runs, uint32_t candidates, uint32_t blocks_per_image, CandidateKey* order) {
  const int64_t image = blockIdx.x / blocks_per_image;
  const int64_t image_offset = image * candidates;
  const uint32_t mine = blockIdx.x % blocks_per_image * kMergeThreads + threadIdx.x;
  if (mine >= candidates) {
    return;
  }
  const uint32_t my_run = mine / runs.run_length;
  const uint32_t* counts = runs.counts + image * runs.num_runs;
  uint32_t place = mine - my_run * runs.run_length;
  if (place >= counts[my_run]) {
    return;
  }
  const CandidateKey* keys = runs.keys + image_offset;
  const CandidateKey key = keys[mine];
  for (uint32_t first_run = 0; first_run < runs.num_runs; first_run += kSearches) {
    // The number of keys above `key` in run `first_run + search` is in [low, high].
    uint32_t low[kSearches];
    uint32_t high[kSearches];
    uint32_t longest = 0;
#pragma unroll
    for (uint32_t search = 0; search < kSearches; ++search) {
      const uint32_t run = first_run + search;
      low[search] = 0;
      high[search] = run < runs.num_runs && run != my_run ? counts[run] : 0;
      longest = max(longest, high[search]);
    }
    // Each step halves the intervals: [0, longest] is a point after as many steps as `longest` has bits.
    for (; longest > 0; longest /= 2) {
#pragma unroll
      for (uint32_t search = 0; search < kSearches; ++search) {
        if (low[search] < high[search]) {
          const uint32_t middle = (low[search] + high[search]) / 2;
          const int64_t position = static_cast<int64_t>(first_run + search) * runs.run_length + middle;
          if (keys[position] > key) {
            low[search] = middle + 1;
          } else {
            high[search] = middle;
          }
        }
      }
    }
#pragma unroll
    for (uint32_t search = 0; search < kSearches; ++search) {
      place += low[search];
    }
  }
  order[image_offset + place] = key;
}

}  // namespace

cudaError_t launch_merge(const NmsShape& shape, const SortedRuns& runs, CandidateKey* order, cudaStream_t stream) {
  const int64_t blocks_per_image = (shape.candidates + kMergeThreads - 1) / kMergeThreads;
  if (shape.batch > INT32_MAX / blocks_per_image) {
    return cudaErrorInvalidConfiguration;
  }
  merge_kernel<<<static_cast<uint32_t>(shape.batch * blocks_per_image), kMergeThreads, 0, stream>>>(
      runs, static_cast<uint32_t>(shape.candidates), static_cast<uint32_t>(blocks_per_image), order);
  return cudaGetLastError();
}

}  // namespace torch_trt_ext::plugins
