#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Gives reads of an attribute what the same call has set it to before (`self.pyramid = [x]`, later `self.pyramid[0]`),
/// so that lists and numbers that are kept in attributes are known as others are. The attribute is set all the same,
/// for the next call and for whoever looks at the module. Returns whether the graph changed.
bool forward_attributes(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace torch_trt_ext::passes
