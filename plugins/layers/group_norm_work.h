#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/warp.h"
#include "layers/group_norm_kernels.h"

namespace torch_trt_ext::plugins {

/// Division of numbers below 2^31 by one from 1 to 2^31 - 1 that is the same for a whole launch; exact.
///
/// For the divisor d, 2^(l - 1) < d <= 2^l, the multiplier m = ceil(2^(31 + l) / d) is below 2^32, and 2^(31 + l) <=
/// m d < 2^(31 + l) + 2^l: floor(m n / 2^(31 + l)) is floor(n / d) for every n < 2^31.
///
/// Source: T. Granlund, P. Montgomery, "Division by invariant integers using multiplication", theorem 4.2.
class ExactDivision {
 public:
  explicit ExactDivision(uint32_t divisor) {
    while ((uint64_t{1} << shift_) < divisor) {
      ++shift_;
    }
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << (31 + shift_)) + divisor - 1) / divisor);
  }

  TTE_HOST_DEVICE uint32_t operator()(uint32_t dividend) const {
    // Twice the dividend, so that what is left to shift by is never negative.
    return static_cast<uint32_t>((uint64_t{2 * dividend} * multiplier_) >> 32) >> shift_;
  }

 private:
  uint32_t multiplier_ = 0;
  uint32_t shift_ = 0;
};

/// What all blocks of a launch know. Groups and elements of one are counted below 2^31.
struct GroupNormWork {
  ChannelAffine affine;
  float eps;
  uint32_t elements_per_group;
  uint32_t channels_per_group;
  uint32_t num_groups;
  uint32_t spatial;
  uint32_t packs_per_block;
  /// A multiple of kWarpThreads.
  uint32_t packs_per_warp;
  /// Elements from the last multiple of a pack's bytes to the input, and to the output.
  uint32_t misalignment;
  ExactDivision by_num_groups;
  ExactDivision by_spatial;
  ExactDivision by_blocks_per_group;
  uint32_t blocks_per_group;
};

/// What a block holds of a group: packs that lie next to each other, each where it can be accessed at once. The group's
/// first block also holds its edges: the elements before the first pack and after the last one, less than two packs'.
struct BlockSpan {
  /// The first pack's place in the group, in elements.
  uint32_t first;
  uint32_t packs;
  /// Edges at the front of the group, and all that this block holds.
  uint32_t front_edges;
  uint32_t edges;

  /// Of block number `block` of the group. `pack_length` is a power of two.
  TTE_HOST_DEVICE BlockSpan(const GroupNormWork& work, uint32_t pack_length, uint32_t group, uint32_t block) {
    const uint32_t elements = work.elements_per_group;
    // Modulo 2^32, which the length of a pack divides.
    const uint32_t up_to_pack = (0U - (work.misalignment + group * elements)) & (pack_length - 1);
    front_edges = up_to_pack < elements ? up_to_pack : elements;
    const uint32_t packs_of_group = (elements - front_edges) / pack_length;
    const uint32_t first_pack = block * work.packs_per_block;
    const uint32_t left = packs_of_group > first_pack ? packs_of_group - first_pack : 0;
    first = front_edges + first_pack * pack_length;
    packs = left < work.packs_per_block ? left : work.packs_per_block;
    edges = block == 0 ? elements - packs_of_group * pack_length : 0;
  }

  TTE_HOST_DEVICE uint32_t elements(uint32_t pack_length) const { return packs * pack_length + edges; }

  /// An edge's place in the group.
  TTE_HOST_DEVICE uint32_t edge_position(const GroupNormWork& work, uint32_t edge) const {
    return edge < front_edges ? edge : work.elements_per_group - edges + edge;
  }
};

/// A thread's packs of a block's: every kWarpThreads-th of those of its warp, which lie next to each other.
struct ThreadSpan {
  /// Number of its first one among the block's packs.
  uint32_t first;
  /// Packs of the warp from that one on; not above 0 where it holds none.
  int32_t left;
  uint32_t packs_of_warp;

  TTE_HOST_DEVICE ThreadSpan(const GroupNormWork& work, const BlockSpan& block, uint32_t thread) {
    const uint32_t first_of_warp = thread / kWarpThreads * work.packs_per_warp;
    const uint32_t from_warp_on = block.packs > first_of_warp ? block.packs - first_of_warp : 0;
    packs_of_warp = from_warp_on < work.packs_per_warp ? from_warp_on : work.packs_per_warp;
    first = first_of_warp + thread % kWarpThreads;
    left = static_cast<int32_t>(packs_of_warp) - static_cast<int32_t>(thread % kWarpThreads);
  }

  /// Whether it holds pack number first + number * kWarpThreads.
  TTE_HOST_DEVICE bool holds(uint32_t number) const { return static_cast<int32_t>(number * kWarpThreads) < left; }
};

}  // namespace torch_trt_ext::plugins
