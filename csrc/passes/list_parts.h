#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Follows elements of what split, chunk and unbind give (`x.split(2)[1]`) back to the tensor, and reads them as views
/// of it, with a check that raises where the list would have been too short. AliasDb cannot tell the elements of such
/// lists from those of any other, and engines give no lists. Of lists whose length is certain the elements are
/// unpacked. Returns whether the graph changed; the lists are left to dead code elimination.
bool read_list_parts(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace torch_trt_ext::passes
