#pragma once

#include <cstdint>
#include <vector>

#include "layers/group_norm_kernels.h"
#include "layers/group_norm_work.h"

namespace torch_trt_ext::plugins {

/// Threads of a block that holds a group, of one of a cluster that does, and of one that holds a part of a group.
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kMaxClusterThreads = 512;
constexpr uint32_t kPartThreads = 256;

/// Most blocks of a cluster that every device with clusters takes.
constexpr uint32_t kMaxClusterBlocks = 8;

/// Packs that a thread holds in registers.
constexpr uint32_t register_packs(uint32_t pack_length) {
  return pack_length == 1 ? 16 : 8;
}

/// Packs that a thread holds where a kernel keeps most in shared memory: in all, and there. Two blocks of
/// kMaxClusterThreads such threads fit into a multiprocessor's registers and shared memory.
constexpr uint32_t kPacksWithShared = 16;
constexpr uint32_t kSharedPacks = 10;

/// Elements of a part of a group, its last one apart, are no fewer, whatever a pack is: those of packs of one.
constexpr int64_t kSmallestPart = int64_t{kPartThreads} * register_packs(1);

struct GroupNormDevice {
  int32_t multiprocessors;
  /// Whether clusters of kMaxClusterBlocks can be launched there.
  bool has_clusters;

  /// Whether it is known.
  explicit operator bool() const { return multiprocessors > 0; }
};

/// How a launch goes about it.
struct GroupNormPlan {
  /// Not kAuto.
  GroupNormVariant variant;
  /// Parts of a group with kParts.
  uint32_t blocks_per_group;
  uint32_t threads;
  uint32_t packs_per_block;
  uint32_t packs_per_warp;
  /// Whether threads hold kPacksWithShared packs each, kSharedPacks of them in shared memory.
  bool uses_shared_memory;
};

/// For a shape that has elements, in packs of `pack_length` elements: of 16 bytes, or of 1 element.
GroupNormPlan plan_group_norm(const GroupNormShape& shape, GroupNormVariant variant, uint32_t pack_length,
                              const GroupNormDevice& device);

/// What the plan's blocks need to know; `misalignment` is GroupNormWork's.
GroupNormWork make_work(const GroupNormShape& shape, float eps, const ChannelAffine& affine, const GroupNormPlan& plan,
                        uint32_t misalignment);

/// What group_norm_variants says for a device.
std::vector<GroupNormVariant> variants_on(const GroupNormShape& shape, const GroupNormDevice& device);

}  // namespace torch_trt_ext::plugins
