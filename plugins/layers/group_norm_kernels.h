#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/element_type.h"

namespace torch_trt_ext::plugins {

/// A group's elements are counted in 32 bits.
constexpr int64_t kMaxElementsPerGroup = INT32_MAX;

/// [batch, channels, spatial]; `num_groups` divides `channels`, and channels / num_groups * spatial must not exceed
/// kMaxElementsPerGroup.
struct GroupNormShape {
  int64_t batch;
  int64_t channels;
  int64_t spatial;
  int64_t num_groups;

  int64_t groups() const { return batch * num_groups; }
  int64_t elements_per_group() const { return channels / num_groups * spatial; }
};

/// What each channel is multiplied by and what is added to it: [channels] each, both of one type, device memory.
struct ChannelAffine {
  const void* scale;
  const void* bias;
  ElementType type;
};

/// Ways to compute the same, to rounding; values are tactics and must not change.
enum class GroupNormVariant : int32_t {
  /// One block a group where it holds one, else in parts.
  kAuto = 0,
  /// One block a group, which stays in registers: everything is read once. Needs as many groups as the device has
  /// multiprocessors to keep it busy.
  kOneBlock = 1,
  /// Three launches over parts of groups, which reads everything twice.
  kParts = 2,
};

/// Whether kOneBlock and kParts are both possible and differ.
bool has_variants(const GroupNormShape& shape);

/// Scratch that launch_group_norm needs for `shape` and any smaller one: 2 bytes for every 1024 elements, and for every
/// group.
size_t group_norm_workspace_bytes(const GroupNormShape& shape);

/// A variant that is not possible is as kAuto. output = (input - mean) / sqrt(variance + eps) * scale + bias, mean and
/// (biased) variance over each image's group of channels. All in float32, rounded once; the variance is of differences
/// to the mean, so that a large mean costs no digits.
///
/// `input` and `output` are device memory, dense, of `type`, aligned for one element, and must not overlap; `workspace`
/// is group_norm_workspace_bytes, 256-byte aligned. The work is put on `stream`; the host is not blocked and nothing is
/// allocated. Same inputs at equally aligned addresses give bit-equal outputs.
cudaError_t launch_group_norm(const GroupNormShape& shape, float eps, const ChannelAffine& affine,
                              GroupNormVariant variant, const void* input, void* output, ElementType type,
                              void* workspace, cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
