#include "retinanet/nms_kernels.h"

#include <algorithm>

#include "common/load_float.cuh"
#include "common/workspace.h"
#include "retinanet/dispatch.h"
#include "retinanet/key_sort.cuh"
#include "retinanet/suppress.h"

namespace torch_trt_ext::plugins {
namespace {

/// Short runs keep more blocks busy, long ones make fewer of them to merge.
constexpr int64_t kShortRun = kSortThreads;
constexpr int64_t kLongRun = kSortCapacity;
constexpr int64_t kFewCandidates = 65536;

int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

struct Workspace {
  CandidateKey* keys;
  CandidateKey* order;
  uint32_t* counts;
  size_t size_bytes;

  Workspace(const NmsShape& shape, void* memory) {
    WorkspaceParts parts(memory);
    keys = parts.take<CandidateKey>(shape.batch * shape.candidates);
    order = parts.take<CandidateKey>(shape.batch * shape.candidates);
    // For short runs, of which there are most.
    counts = parts.take<uint32_t>(shape.batch * divide_up(shape.candidates, kShortRun));
    size_bytes = parts.size_bytes();
  }
};

/// One block a run: sorts the candidates that count.
template <class T>
__global__ void __launch_bounds__(kSortThreads)
    sort_runs_kernel(const T* scores, uint32_t candidates, uint32_t num_runs, uint32_t run_length, CandidateKey* keys,
                     uint32_t* counts) {
  __shared__ SortMemory memory;
  const int64_t image_offset = static_cast<int64_t>(blockIdx.x / num_runs) * candidates;
  const uint32_t first = blockIdx.x % num_runs * run_length;
  const uint32_t length = min(run_length, candidates - first);
  if (threadIdx.x == 0) {
    memory.count = 0;
  }
  __syncthreads();
  for (uint32_t index = first + threadIdx.x; index < first + length; index += kSortThreads) {
    const CandidateKey key = candidate_key(load_float(scores, image_offset + index), index, 0.0F);
    if (key != 0) {
      memory.keys[atomicAdd(&memory.count, 1U)] = key;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    counts[blockIdx.x] = memory.count;
  }
  CandidateKey* run = keys + image_offset + first;
  sort_keys(memory, memory.count, memory.count, [&](CandidateKey key, uint32_t place) { run[place] = key; });
}

}  // namespace

size_t nms_workspace_bytes(const NmsShape& shape) {
  return Workspace(shape, nullptr).size_bytes;
}

cudaError_t launch_nms(const NmsShape& shape, const NmsOptions& options, ElementType type, const void* scores,
                       const void* boxes, const void* classes, const Detections& detections, void* workspace,
                       cudaStream_t stream) {
  if (shape.candidates > kMaxCandidatesPerImage || options.max_detections < 1) {
    return cudaErrorInvalidValue;
  }
  if (shape.batch == 0) {
    return cudaSuccess;
  }
  const Workspace memory(shape, workspace);
  const int64_t run_length = shape.candidates > kFewCandidates ? kLongRun : kShortRun;
  const int64_t num_runs = divide_up(shape.candidates, run_length);
  if (shape.batch > INT32_MAX / std::max<int64_t>(num_runs, 1)) {
    return cudaErrorInvalidConfiguration;
  }
  const SortedRuns runs = {memory.keys, memory.counts, static_cast<uint32_t>(num_runs),
                           static_cast<uint32_t>(run_length)};
  if (num_runs > 0) {
    const cudaError_t status = dispatch_element(type, [&](auto element) {
      using T = decltype(element);
      sort_runs_kernel<T><<<static_cast<uint32_t>(shape.batch * num_runs), kSortThreads, 0, stream>>>(
          static_cast<const T*>(scores), static_cast<uint32_t>(shape.candidates), runs.num_runs, runs.run_length,
          memory.keys, memory.counts);
      return cudaGetLastError();
    });
    if (status != cudaSuccess) {
      return status;
    }
  }
  // One run is in order as it is.
  const bool merges = num_runs > 1;
  if (merges) {
    const cudaError_t status = launch_merge(shape, runs, memory.order, stream);
    if (status != cudaSuccess) {
      return status;
    }
  }
  return launch_suppress(shape, options, runs, merges ? memory.order : memory.keys, type, boxes, classes, detections,
                         stream);
}

}  // namespace torch_trt_ext::plugins
