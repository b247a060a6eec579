#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <memory>

namespace torch_trt_ext::passes {

/// Replaces operators that write to a view of a tensor made in the graph by their ordinary forms, where nothing but
/// what is made of that view later on reads the tensor's data after the write, or but the tensor itself, into which
/// slices and elements are put back (`x[:, 1:] += y`). Of the in-place operators only those that `is_allowed` is true
/// of. Gives whether it replaced any; new opportunities may come of that.
bool functionalize_view_writes(const std::shared_ptr<torch::jit::Graph>& graph,
                               const std::function<bool(torch::jit::Node*)>& is_allowed);

}  // namespace torch_trt_ext::passes
