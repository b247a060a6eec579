#include "retinanet/decode_kernels.h"

#include <algorithm>

#include "retinanet/box_math.h"
#include "retinanet/candidate_key.h"
#include "retinanet/load_float.cuh"

namespace torch_trt_ext::plugins {
namespace {

constexpr uint32_t kBlockThreads = 256;
constexpr int kDigitBits = 11;
constexpr uint32_t kBins = 1U << kDigitBits;
constexpr uint32_t kBinsPerThread = kBins / kBlockThreads;
constexpr int64_t kScoresPerThread = 16;
/// Blocks of one scan over all images together, where there are scores enough: a few waves on the largest GPUs.
constexpr int64_t kScanBlocks = 4096;
constexpr size_t kAlignment = 256;

/// What is known about one image's cutoff. All zero before the first pass.
struct SelectState {
  /// The digits found so far of the K-th best key; lower bits are 0.
  CandidateKey prefix;
  /// Keys not below this are gathered. Set together with `done`.
  CandidateKey cutoff;
  /// Number of keys above every key that starts with `prefix`.
  uint32_t above;
  /// Blocks that have added their counts in the current pass.
  uint32_t blocks_counted;
  uint32_t done;
  uint32_t gathered;
};

size_t align_up(size_t size_bytes) {
  return (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// Places of the parts of the workspace. States and histograms come first: both are cleared by one memset.
struct WorkspaceLayout {
  size_t histograms_offset;
  size_t cleared_bytes;
  size_t keys_offset;
  size_t total_bytes;
  /// Keys an image that can be gathered: enough for K, and more so that most searches end after few digits.
  int64_t capacity;

  WorkspaceLayout(const DecodeShape& shape, int32_t topk_candidates) {
    const int64_t topk = topk_candidates;
    capacity = std::min(shape.scores_per_image(), topk + std::max<int64_t>(topk, 1024));
    const size_t images = static_cast<size_t>(shape.batch);
    histograms_offset = align_up(images * sizeof(SelectState));
    cleared_bytes = histograms_offset + images * kBins * sizeof(uint32_t);
    keys_offset = align_up(cleared_bytes);
    total_bytes = keys_offset + images * static_cast<size_t>(capacity) * sizeof(CandidateKey);
  }
};

/// One scan's share of work: which image and which of its blocks this is.
struct ImageBlock {
  int64_t image;
  uint32_t block;
};

__device__ __forceinline__ ImageBlock image_block(uint32_t blocks_per_image) {
  return {static_cast<int64_t>(blockIdx.x / blocks_per_image), blockIdx.x % blocks_per_image};
}

/// Finds the current digit of the K-th best key and records it in `state`. Called by all threads of one block.
/// `bins` is the image's complete histogram of that digit over the keys that start with `state->prefix`.
__device__ void choose_digit(SelectState* state, const uint32_t* bins, uint32_t* suffix_counts, uint32_t topk,
                             uint32_t capacity, int shift) {
  const uint32_t thread = threadIdx.x;
  const uint32_t first_bin = thread * kBinsPerThread;
  uint32_t count = 0;
  for (uint32_t bin = first_bin; bin < first_bin + kBinsPerThread; ++bin) {
    count += bins[bin];
  }
  suffix_counts[thread] = count;
  __syncthreads();
  for (uint32_t distance = 1; distance < kBlockThreads; distance *= 2) {
    const uint32_t other = thread + distance < kBlockThreads ? suffix_counts[thread + distance] : 0;
    __syncthreads();
    suffix_counts[thread] += other;
    __syncthreads();
  }

  const uint32_t needed = topk - state->above;
  const uint32_t total = suffix_counts[0];
  // Nobody may change `state` before everybody has read it.
  __syncthreads();
  if (total < needed) {
    // Only the first digit's total can be short: every candidate is selected.
    if (thread == 0) {
      state->cutoff = 1;
      state->done = 1;
    }
    return;
  }
  uint32_t above = thread + 1 < kBlockThreads ? suffix_counts[thread + 1] : 0;
  if (above >= needed || suffix_counts[thread] < needed) {
    return;
  }
  // Exactly one thread comes here: the one whose bins hold the needed-th best key.
  uint32_t digit = first_bin + kBinsPerThread - 1;
  while (above + bins[digit] < needed) {
    above += bins[digit];
    --digit;
  }
  const CandidateKey prefix = state->prefix | (static_cast<CandidateKey>(digit) << shift);
  const uint32_t selected = state->above + above + bins[digit];
  state->prefix = prefix;
  state->above += above;
  state->blocks_counted = 0;
  if (selected <= capacity) {
    // 0 is no candidate's key.
    state->cutoff = prefix == 0 ? 1 : prefix;
    state->done = 1;
  }
}

/// Counts one digit of the keys that start with the prefix found so far; the last block of an image chooses the digit.
/// `shift` is the number of key bits below the digit. Does nothing for an image whose cutoff is known.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    select_digit_kernel(const T* scores, uint32_t scores_per_image, float score_thresh, uint32_t topk,
                        uint32_t capacity, int shift, int digit_bits, uint32_t blocks_per_image, SelectState* states,
                        uint32_t* histograms) {
  __shared__ uint32_t bins[kBins];
  __shared__ uint32_t suffix_counts[kBlockThreads];
  __shared__ uint32_t is_last_block;

  const ImageBlock place = image_block(blocks_per_image);
  SelectState* state = states + place.image;
  if (state->done != 0) {
    return;
  }
  const int prefix_shift = shift + digit_bits;
  const CandidateKey prefix = state->prefix >> prefix_shift;
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kBlockThreads) {
    bins[bin] = 0;
  }
  __syncthreads();

  const int64_t image_offset = place.image * scores_per_image;
  const uint32_t digit_mask = (1U << digit_bits) - 1;
  for (uint32_t index = place.block * kBlockThreads + threadIdx.x; index < scores_per_image;
       index += blocks_per_image * kBlockThreads) {
    const CandidateKey key = candidate_key(load_float(scores, image_offset + index), index, score_thresh);
    if (key != 0 && (key >> prefix_shift) == prefix) {
      atomicAdd(&bins[static_cast<uint32_t>(key >> shift) & digit_mask], 1U);
    }
  }
  __syncthreads();

  uint32_t* histogram = histograms + place.image * kBins;
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kBlockThreads) {
    if (bins[bin] != 0) {
      atomicAdd(&histogram[bin], bins[bin]);
    }
  }
  // Counts must be visible to the whole device before this block reports in.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last_block = atomicAdd(&state->blocks_counted, 1U) == blocks_per_image - 1 ? 1 : 0;
  }
  __syncthreads();
  if (is_last_block == 0) {
    return;
  }
  __threadfence();
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kBlockThreads) {
    bins[bin] = __ldcg(&histogram[bin]);
    histogram[bin] = 0;
  }
  __syncthreads();
  choose_digit(state, bins, suffix_counts, topk, capacity, shift);
}

/// Collects every key that is not below its image's cutoff, in any order.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    gather_keys_kernel(const T* scores, uint32_t scores_per_image, float score_thresh, uint32_t capacity,
                       uint32_t blocks_per_image, SelectState* states, CandidateKey* keys) {
  const ImageBlock place = image_block(blocks_per_image);
  SelectState* state = states + place.image;
  const CandidateKey cutoff = state->cutoff;
  const int64_t image_offset = place.image * scores_per_image;
  CandidateKey* image_keys = keys + place.image * capacity;
  for (uint32_t index = place.block * kBlockThreads + threadIdx.x; index < scores_per_image;
       index += blocks_per_image * kBlockThreads) {
    const CandidateKey key = candidate_key(load_float(scores, image_offset + index), index, score_thresh);
    if (key >= cutoff) {
      const uint32_t slot = atomicAdd(&state->gathered, 1U);
      if (slot < capacity) {
        image_keys[slot] = key;
      }
    }
  }
}

/// What decode_kernel writes to; see launch_decode.
struct DecodeOutputs {
  float* scores;
  float* boxes;
  float* classes;
};

/// The level's grid in 32 bits; see DecodeShape.
struct Grid {
  uint32_t num_anchors;
  uint32_t num_classes;
  uint32_t height;
  uint32_t width;
};

template <class T>
__device__ void write_candidate(CandidateKey key, int64_t image, int64_t slot, Grid grid, const DecodeOptions& options,
                                const T* deltas, const float* anchors, DecodeOutputs outputs) {
  const uint32_t index = key_index(key);
  const uint32_t x = index % grid.width;
  const uint32_t y = index / grid.width % grid.height;
  const uint32_t channel = index / grid.width / grid.height;
  const uint32_t anchor = channel / grid.num_classes;

  const int64_t plane = static_cast<int64_t>(grid.height) * grid.width;
  const int64_t offset = (image * grid.num_anchors + anchor) * 4 * plane + static_cast<int64_t>(y) * grid.width + x;
  const BoxDelta delta = {load_float(deltas, offset), load_float(deltas, offset + plane),
                          load_float(deltas, offset + 2 * plane), load_float(deltas, offset + 3 * plane)};
  const float stride = static_cast<float>(options.stride);
  const float shift_x = static_cast<float>(x) * stride;
  const float shift_y = static_cast<float>(y) * stride;
  const float* corners = anchors + static_cast<int64_t>(anchor) * 4;
  const Box shifted = {shift_x + corners[0], shift_y + corners[1], shift_x + corners[2], shift_y + corners[3]};
  const ClipExtent extent = {static_cast<float>(grid.width) * stride, static_cast<float>(grid.height) * stride};
  const Box box =
      decode_box(options.convention, shifted, delta, extent, ClipExtent{options.image_width, options.image_height});

  outputs.scores[slot] = key_score(key);
  outputs.classes[slot] = static_cast<float>(channel % grid.num_classes);
  outputs.boxes[slot * 4] = box.x1;
  outputs.boxes[slot * 4 + 1] = box.y1;
  outputs.boxes[slot * 4 + 2] = box.x2;
  outputs.boxes[slot * 4 + 3] = box.y2;
}

/// One thread a gathered key: its place among the outputs is the number of keys above it, since keys are unique.
/// Slots past the last candidate are zeroed.
template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    decode_kernel(const T* deltas, const float* anchors, Grid grid, DecodeOptions options, uint32_t capacity,
                  uint32_t blocks_per_image, const SelectState* states, const CandidateKey* keys,
                  DecodeOutputs outputs) {
  __shared__ CandidateKey tile[kBlockThreads];
  const ImageBlock place = image_block(blocks_per_image);
  const uint32_t count = min(states[place.image].gathered, capacity);
  const CandidateKey* image_keys = keys + place.image * capacity;
  const uint32_t block_start = place.block * kBlockThreads;
  const uint32_t mine = block_start + threadIdx.x;
  const uint32_t topk = static_cast<uint32_t>(options.topk_candidates);
  const int64_t first_slot = place.image * topk;

  if (block_start < count) {
    const CandidateKey key = mine < count ? image_keys[mine] : 0;
    uint32_t rank = 0;
    for (uint32_t start = 0; start < count; start += kBlockThreads) {
      // Keys of 0 are above nobody, so a partly filled tile needs no bound.
      tile[threadIdx.x] = start + threadIdx.x < count ? image_keys[start + threadIdx.x] : 0;
      __syncthreads();
#pragma unroll 8
      for (uint32_t other = 0; other < kBlockThreads; ++other) {
        rank += tile[other] > key ? 1 : 0;
      }
      __syncthreads();
    }
    if (mine < count && rank < topk) {
      write_candidate(key, place.image, first_slot + rank, grid, options, deltas, anchors, outputs);
    }
  }
  if (mine >= count && mine < topk) {
    const int64_t slot = first_slot + mine;
    outputs.scores[slot] = 0.0F;
    outputs.classes[slot] = 0.0F;
    for (int64_t corner = 0; corner < 4; ++corner) {
      outputs.boxes[slot * 4 + corner] = 0.0F;
    }
  }
}

int64_t blocks_for(int64_t items, int64_t items_per_block) {
  return std::max<int64_t>(1, (items + items_per_block - 1) / items_per_block);
}

template <class T>
cudaError_t launch_decode_typed(const DecodeShape& shape, const DecodeOptions& options, const T* scores,
                                const T* deltas, const float* anchors, const DecodeOutputs& outputs, char* workspace,
                                cudaStream_t stream) {
  const WorkspaceLayout layout(shape, options.topk_candidates);
  auto* states = reinterpret_cast<SelectState*>(workspace);
  auto* histograms = reinterpret_cast<uint32_t*>(workspace + layout.histograms_offset);
  auto* keys = reinterpret_cast<CandidateKey*>(workspace + layout.keys_offset);
  const auto capacity = static_cast<uint32_t>(layout.capacity);
  const auto topk = static_cast<uint32_t>(options.topk_candidates);
  const auto scores_per_image = static_cast<uint32_t>(shape.scores_per_image());

  const int64_t scan_blocks = std::min(blocks_for(shape.scores_per_image(), kBlockThreads * kScoresPerThread),
                                       std::max<int64_t>(1, kScanBlocks / shape.batch));
  const int64_t decode_blocks = blocks_for(std::max<int64_t>(layout.capacity, topk), kBlockThreads);
  if (shape.batch > INT32_MAX / std::max(scan_blocks, decode_blocks)) {
    return cudaErrorInvalidConfiguration;
  }
  const auto scan_grid = static_cast<uint32_t>(shape.batch * scan_blocks);
  const auto decode_grid = static_cast<uint32_t>(shape.batch * decode_blocks);
  const auto scan_blocks_per_image = static_cast<uint32_t>(scan_blocks);
  const auto decode_blocks_per_image = static_cast<uint32_t>(decode_blocks);

  cudaError_t status = cudaMemsetAsync(workspace, 0, layout.cleared_bytes, stream);
  if (status != cudaSuccess) {
    return status;
  }
  for (int remaining_bits = kCandidateKeyBits; remaining_bits > 0;) {
    const int digit_bits = std::min(kDigitBits, remaining_bits);
    remaining_bits -= digit_bits;
    select_digit_kernel<T><<<scan_grid, kBlockThreads, 0, stream>>>(scores, scores_per_image, options.score_thresh,
                                                                    topk, capacity, remaining_bits, digit_bits,
                                                                    scan_blocks_per_image, states, histograms);
    status = cudaGetLastError();
    if (status != cudaSuccess) {
      return status;
    }
  }
  gather_keys_kernel<T><<<scan_grid, kBlockThreads, 0, stream>>>(scores, scores_per_image, options.score_thresh,
                                                                 capacity, scan_blocks_per_image, states, keys);
  status = cudaGetLastError();
  if (status != cudaSuccess) {
    return status;
  }
  const Grid grid = {static_cast<uint32_t>(shape.num_anchors), static_cast<uint32_t>(shape.num_classes),
                     static_cast<uint32_t>(shape.height), static_cast<uint32_t>(shape.width)};
  decode_kernel<T><<<decode_grid, kBlockThreads, 0, stream>>>(deltas, anchors, grid, options, capacity,
                                                              decode_blocks_per_image, states, keys, outputs);
  return cudaGetLastError();
}

}  // namespace

size_t decode_workspace_bytes(const DecodeShape& shape, int32_t topk_candidates) {
  return WorkspaceLayout(shape, topk_candidates).total_bytes;
}

cudaError_t launch_decode(const DecodeShape& shape, const DecodeOptions& options, ElementType type, const void* scores,
                          const void* deltas, const float* anchors, float* out_scores, float* out_boxes,
                          float* out_classes, void* workspace, cudaStream_t stream) {
  if (shape.scores_per_image() > kMaxScoresPerImage || options.topk_candidates < 1) {
    return cudaErrorInvalidValue;
  }
  if (shape.batch == 0) {
    return cudaSuccess;
  }
  const DecodeOutputs outputs = {out_scores, out_boxes, out_classes};
  auto* scratch = static_cast<char*>(workspace);
  if (type == ElementType::kFloat16) {
    return launch_decode_typed(shape, options, static_cast<const __half*>(scores), static_cast<const __half*>(deltas),
                               anchors, outputs, scratch, stream);
  }
  return launch_decode_typed(shape, options, static_cast<const float*>(scores), static_cast<const float*>(deltas),
                             anchors, outputs, scratch, stream);
}

}  // namespace torch_trt_ext::plugins
