#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Writes of numbers into a tensor that was just made of numbers, or into parts of it (`mask = x.new_zeros(n, n);
/// mask[:k] = 1`), become ordinary operators: its elements depend on no other tensor's, so that for fixed sizes it is
/// a constant. Each write then makes a copy, which is why those of tensors stay. Returns whether the graph changed.
bool functionalize_number_writes(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace torch_trt_ext::passes
