#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Makes every `prim::If` that returns a tuple return the tuple's elements. Returns whether the graph changed.
bool flatten_branch_tuples(const std::shared_ptr<torch::jit::Graph>& graph);

/// Splits every `prim::If` that returns both tensors and plain values (numbers, strings, lists of them) into one for
/// the tensors and one for the rest, where the rest needs no tensor's data: numbers are then known without running
/// operators. Returns whether the graph changed.
bool split_plain_branch_outputs(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace torch_trt_ext::passes
