#pragma once

#include <cstdint>

#include "common/load_float.cuh"
#include "retinanet/box_math.h"
#include "retinanet/candidate_work.h"

namespace torch_trt_ext::plugins {

/// To what kTorchvision clips the boxes of an image.
__device__ __forceinline__ ClipExtent image_extent(const ImageSizes& sizes, const LevelWork& level, int64_t image) {
  if (sizes.values == nullptr) {
    return {level.image_width, level.image_height};
  }
  if (sizes.are_integers) {
    const int32_t* size = static_cast<const int32_t*>(sizes.values) + image * 2;
    return {static_cast<float>(size[1]), static_cast<float>(size[0])};
  }
  const float* size = static_cast<const float*>(sizes.values) + image * 2;
  return {size[1], size[0]};
}

/// Decodes the candidate that is `place`-th best of its pair and writes it.
template <class T>
__device__ __forceinline__ void write_candidate(const CandidateWork& work, const LevelWork& level, uint32_t pair,
                                                CandidateKey key, uint32_t place, const CandidateOutputs& outputs) {
  const uint32_t index = key_index(key);
  const uint32_t row = index / level.width;
  const uint32_t x = index - row * level.width;
  const uint32_t channel = row / level.height;
  const uint32_t y = row - channel * level.height;
  const uint32_t anchor = channel / level.num_classes;

  const int64_t plane = static_cast<int64_t>(level.height) * level.width;
  const int64_t image = pair / work.num_levels;
  const int64_t offset = (image * level.num_anchors + anchor) * 4 * plane + static_cast<int64_t>(y) * level.width + x;
  const T* deltas = static_cast<const T*>(level.deltas);
  const BoxDelta delta = {load_float(deltas, offset), load_float(deltas, offset + plane),
                          load_float(deltas, offset + 2 * plane), load_float(deltas, offset + 3 * plane)};
  const float shift_x = static_cast<float>(x) * level.stride;
  const float shift_y = static_cast<float>(y) * level.stride;
  const float* corners = level.anchors + static_cast<int64_t>(anchor) * 4;
  const Box shifted = {shift_x + corners[0], shift_y + corners[1], shift_x + corners[2], shift_y + corners[3]};
  const ClipExtent extent = {static_cast<float>(level.width) * level.stride,
                             static_cast<float>(level.height) * level.stride};
  const Box box = decode_box(work.convention, shifted, delta, extent, image_extent(work.image_sizes, level, image));

  const int64_t slot = static_cast<int64_t>(pair) * work.topk + place;
  if (outputs.scores != nullptr) {
    outputs.scores[slot] = key_score(key);
  }
  if (outputs.run_keys != nullptr) {
    const uint32_t position = pair % work.num_levels * work.topk + place;
    outputs.run_keys[slot] = candidate_key(key_score(key), position, 0.0F);
  }
  outputs.classes[slot] = static_cast<float>(channel - anchor * level.num_classes);
  outputs.boxes[slot * 4] = box.x1;
  outputs.boxes[slot * 4 + 1] = box.y1;
  outputs.boxes[slot * 4 + 2] = box.x2;
  outputs.boxes[slot * 4 + 3] = box.y2;
}

/// Zeroes the pair's slots `first`, `first + step`, ... where a caller is to see them.
__device__ __forceinline__ void pad_candidates(const CandidateWork& work, uint32_t pair, int64_t first, uint32_t step,
                                               const CandidateOutputs& outputs) {
  if (outputs.scores == nullptr) {
    return;
  }
  for (int64_t place = first; place < work.topk; place += step) {
    const int64_t slot = static_cast<int64_t>(pair) * work.topk + place;
    outputs.scores[slot] = 0.0F;
    outputs.classes[slot] = 0.0F;
    for (int64_t corner = 0; corner < 4; ++corner) {
      outputs.boxes[slot * 4 + corner] = 0.0F;
    }
  }
}

}  // namespace torch_trt_ext::plugins
