#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Follows lists and dicts whose elements are known from where they were made, through appends and assignments, and
/// replaces what is read from them (elements, lengths, keys, copies) by the elements themselves. After a branch that
/// writes to them on one side or both they hold what it gives. What AliasDb says may be written in any other way counts
/// as unknown from there on. Returns whether the graph changed; the containers
/// that nobody reads any more are left to dead code elimination.
bool forward_containers(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace torch_trt_ext::passes
