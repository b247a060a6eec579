#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

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
  /// The one of those below that should be fastest: kCluster for groups above 64 KiB, and above 16 KiB where groups are
  /// fewer than the device's multiprocessors; else, and where that is not possible, kOneBlock; else kParts.
  kAuto = 0,
  /// One block a group, which stays in registers: everything is read once. For groups of up to 128 KiB. Needs as many
  /// groups as the device has multiprocessors to keep it busy.
  kOneBlock = 1,
  /// Three launches over parts of groups, which reads everything twice. Always possible.
  kParts = 2,
  /// A cluster of 2, 4 or 8 blocks a group, which stays in their registers and shared memory: everything is read once.
  /// For groups of 8 KiB to 1 MiB on devices of compute capability 9.0 and later.
  kCluster = 3,
};

/// Those that are possible for the shape in every type, on the current device, and differ: empty where there is no
/// choice. Takes the device for one without clusters when it cannot be asked.
std::vector<GroupNormVariant> group_norm_variants(const GroupNormShape& shape);

/// Looks at the current device and sets its kernels up, once; else the first launch on it does.
cudaError_t prepare_group_norm();

/// Scratch that launch_group_norm needs for `shape` and any smaller one: 2 bytes for every 1024 elements, and for every
/// group.
size_t group_norm_workspace_bytes(const GroupNormShape& shape);

/// A variant that is not possible is as kAuto. output = (input - mean) / sqrt(variance + eps) * scale + bias, mean and
/// (biased) variance over each image's group of channels. All in float32, rounded once; the variance is of differences
/// to the mean, so that a large mean costs no digits.
///
/// `input` and `output` are device memory, dense, of `type`, aligned for one element, and must not overlap; `workspace`
/// is group_norm_workspace_bytes, 256-byte aligned. Fastest where both are equally far from a multiple of 16 bytes;
/// elsewhere elements go one by one, a block holds 16,384 of them, and there is no kCluster. The work is put on
/// `stream`; the host is not blocked and nothing is allocated. Same inputs at equally aligned addresses give bit-equal
/// outputs.
cudaError_t launch_group_norm(const GroupNormShape& shape, float eps, const ChannelAffine& affine,
                              GroupNormVariant variant, const void* input, void* output, ElementType type,
                              void* workspace, cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
