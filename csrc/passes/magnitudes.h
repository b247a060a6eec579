#pragma once

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

#include <cstdint>
#include <unordered_map>

#include "passes/graph_index.h"

namespace torch_trt_ext::passes {

/// What the elements of tensors, and numbers, cannot exceed in magnitude whatever the data and shapes are: of integers
/// that are made of conditions, constants and counts, where no more than 2^28 elements are counted. Values of which
/// that is not known, or that someone writes to, are left out, and so is what exceeds 2^30.
std::unordered_map<const torch::jit::Value*, int64_t> find_magnitudes(const GraphIndex& index,
                                                                      const torch::jit::AliasDb& alias_db);

}  // namespace torch_trt_ext::passes
