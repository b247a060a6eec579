#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Writes out `for` loops whose trip count is a constant, as long as the graph stays below `max_nodes` nodes. Returns
/// whether the graph changed.
bool unroll_loops(const std::shared_ptr<torch::jit::Graph>& graph, size_t max_nodes);

}  // namespace torch_trt_ext::passes
