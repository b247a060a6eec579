#include "layers/group_norm_plan.h"

#include <algorithm>

namespace torch_trt_ext::plugins {
namespace {

// Packs are of 16 bytes in what follows: 1024 of them are 16 KiB.
/// What a cluster's block keeps in registers alone.
constexpr int64_t kPacksInRegisters = 2048;
/// With more, a cluster gets more blocks: fewer of them on a multiprocessor are too few, of which some load while
/// others store. More blocks for less wait longer for each other than they gain.
constexpr int64_t kPacksOfClusterBlock = 5120;
/// Groups above are a cluster's, even where a block can hold them.
constexpr int64_t kPacksOfOneBlock = 4096;
/// What is worth more blocks of a cluster where multiprocessors have none.
constexpr int64_t kPacksOfIdleDevice = 1024;
/// Packs of a thread whose block has a multiprocessor to itself: more threads have more loads under way.
constexpr int64_t kPacksAlone = 4;
/// Less is no cluster's: a warp's work for each of two blocks.
constexpr int64_t kFewestOfCluster = 512;
constexpr int64_t kMostOfCluster = int64_t{kMaxClusterBlocks} * kMaxClusterThreads * kPacksWithShared;

/// Elements of a group that one block, or a cluster, holds of any type: of float32, four in a pack.
constexpr int64_t kElementsOfOneBlock = int64_t{kMaxThreads} * register_packs(4) * 4;
constexpr int64_t kElementsOfCluster = kMostOfCluster * 4;

int64_t divide_up(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

/// Each block gets as many warps as hold its packs, and each warp about as many packs.
GroupNormPlan plan_blocks(GroupNormVariant variant, int64_t blocks_per_group, int64_t packs, int64_t packs_per_thread,
                          bool uses_shared_memory) {
  const int64_t packs_per_block = std::max<int64_t>(divide_up(packs, blocks_per_group), 1);
  const int64_t warps = divide_up(packs_per_block, packs_per_thread * kWarpThreads);
  const int64_t packs_per_warp = divide_up(divide_up(packs_per_block, warps), kWarpThreads) * kWarpThreads;
  return {variant,
          static_cast<uint32_t>(blocks_per_group),
          static_cast<uint32_t>(warps * kWarpThreads),
          static_cast<uint32_t>(packs_per_block),
          static_cast<uint32_t>(packs_per_warp),
          uses_shared_memory};
}

GroupNormPlan plan_cluster(int64_t groups, int64_t packs, uint32_t pack_length, int64_t multiprocessors) {
  int64_t blocks = 2;
  while (blocks < kMaxClusterBlocks && (packs > blocks * kPacksOfClusterBlock ||
                                        (groups * blocks < multiprocessors && packs > blocks * kPacksOfIdleDevice))) {
    blocks *= 2;
  }
  const bool uses_shared_memory = divide_up(packs, blocks) > kPacksInRegisters;
  const int64_t packs_per_thread = uses_shared_memory ? kPacksWithShared : register_packs(pack_length);
  return plan_blocks(GroupNormVariant::kCluster, blocks, packs, packs_per_thread, uses_shared_memory);
}

}  // namespace

GroupNormPlan plan_group_norm(const GroupNormShape& shape, GroupNormVariant variant, uint32_t pack_length,
                              const GroupNormDevice& device) {
  const int64_t groups = shape.groups();
  // A group that starts elsewhere may have one less.
  const int64_t packs = shape.elements_per_group() / pack_length;
  const bool fits_block = packs <= int64_t{kMaxThreads} * register_packs(pack_length);
  const bool fits_cluster =
      device.has_clusters && pack_length > 1 && packs >= kFewestOfCluster && packs <= kMostOfCluster;
  if (variant == GroupNormVariant::kAuto || (variant == GroupNormVariant::kOneBlock && !fits_block) ||
      (variant == GroupNormVariant::kCluster && !fits_cluster)) {
    if (fits_cluster && packs > kPacksOfOneBlock) {
      variant = GroupNormVariant::kCluster;
    } else {
      variant = fits_block ? GroupNormVariant::kOneBlock : GroupNormVariant::kParts;
    }
  }
  if (variant == GroupNormVariant::kOneBlock) {
    const int64_t packs_per_thread = groups < device.multiprocessors && packs <= int64_t{kMaxThreads} * kPacksAlone
                                         ? kPacksAlone
                                         : register_packs(pack_length);
    return plan_blocks(variant, 1, packs, packs_per_thread, false);
  }
  if (variant == GroupNormVariant::kCluster) {
    return plan_cluster(groups, packs, pack_length, device.multiprocessors);
  }
  const uint32_t packs_per_part = kPartThreads * register_packs(pack_length);
  return {variant,
          static_cast<uint32_t>(std::max<int64_t>(divide_up(packs, packs_per_part), 1)),
          kPartThreads,
          packs_per_part,
          kWarpThreads * register_packs(pack_length),
          false};
}

GroupNormWork make_work(const GroupNormShape& shape, float eps, const ChannelAffine& affine, const GroupNormPlan& plan,
                        uint32_t misalignment) {
  const uint32_t num_groups = static_cast<uint32_t>(shape.num_groups);
  const uint32_t spatial = static_cast<uint32_t>(shape.spatial);
  return {affine,
          eps,
          static_cast<uint32_t>(shape.elements_per_group()),
          static_cast<uint32_t>(shape.channels / shape.num_groups),
          num_groups,
          spatial,
          plan.packs_per_block,
          plan.packs_per_warp,
          misalignment,
          ExactDivision(num_groups),
          ExactDivision(spatial),
          ExactDivision(plan.blocks_per_group),
          plan.blocks_per_group};
}

std::vector<GroupNormVariant> variants_on(const GroupNormShape& shape, const GroupNormDevice& device) {
  const int64_t elements = shape.elements_per_group();
  std::vector<GroupNormVariant> variants;
  // Of fewer elements a block's threads would be few, and a part the whole of a group.
  if (elements > kSmallestPart) {
    if (elements <= kElementsOfOneBlock) {
      variants.push_back(GroupNormVariant::kOneBlock);
    }
    variants.push_back(GroupNormVariant::kParts);
    if (device.has_clusters && elements <= kElementsOfCluster) {
      variants.push_back(GroupNormVariant::kCluster);
    }
  }
  if (variants.size() < 2) {
    variants.clear();
  }
  return variants;
}

}  // namespace torch_trt_ext::plugins
