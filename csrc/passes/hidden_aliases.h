#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Replaces operators that give their input itself, though their schemas say that it is a new value: dropout that does
/// nothing, `type_as`, and `+=` on lists. AliasDb knows about writes through what is left.
void resolve_hidden_aliases(const std::shared_ptr<torch::jit::Graph>& graph);

/// Whether an operator may give its input or a view of it without saying so in its schema.
bool hides_alias(const torch::jit::Node* node);

}  // namespace torch_trt_ext::passes
