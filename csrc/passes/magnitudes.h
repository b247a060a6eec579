#pragma once

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <unordered_map>

#include "passes/graph_index.h"

namespace torch_trt_ext::passes {

/// What the elements of tensors, and numbers, cannot exceed in magnitude whatever the data and shapes are: of integers
/// that are made of conditions and constants. Values of which that is not known, or that someone writes to, are left
/// out, and so is what exceeds 2^24, up to which float32 has every integer.
///
/// Positions and other counts would fit as well. They are left out on purpose: with them DETR is one engine on the CPU,
/// and that is over the limit of an engine's error in bfloat16 where two are not.
std::unordered_map<const torch::jit::Value*, int64_t> find_magnitudes(const GraphIndex& index,
                                                                      const torch::jit::AliasDb& alias_db);

}  // namespace torch_trt_ext::passes
