#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "passes/graph_index.h"
#include "passes/node_roles.h"
#include "passes/partition.h"

namespace torch_trt_ext::passes {

/// What was seen of a value in the runs on the test data. A size that varied is -1.
struct TensorFacts {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
};

/// The subgraph as a graph of its own, tensors in and tensors out (one, or a tuple), with everything plain computed
/// inside.
std::shared_ptr<torch::jit::Graph> extract(const Subgraph& subgraph, const NodeRoles& roles);

/// Like extract(), for a converter: of each branch only the side that was taken, values typed with what was seen of
/// them (by value number), and each node in a scope `Node::n<number>` so that what becomes of it can be traced back to
/// it. Of the subgraph's nodes only the first `node_count`; what they leave unused becomes the outputs if that is not
/// all.
std::shared_ptr<torch::jit::Graph> extract_for_engine(const Subgraph& subgraph, const NodeRoles& roles,
                                                      const GraphIndex& index,
                                                      const std::unordered_map<size_t, TensorFacts>& facts,
                                                      at::Device device, size_t node_count);

/// Like extract(), with the side taken of each branch, and every tensor that goes into a node or comes out of one
/// passed through an operator that rounds it where set_rounding() of the session says so, by the node's number.
std::shared_ptr<torch::jit::Graph> extract_rounding(const Subgraph& subgraph, const NodeRoles& roles,
                                                    const GraphIndex& index, int64_t session);

/// A module whose `forward(List[Tensor]) -> List[Tensor]` runs a graph that extract() made.
torch::jit::Module as_list_module(const std::shared_ptr<torch::jit::Graph>& graph, const std::string& name);

}  // namespace torch_trt_ext::passes
