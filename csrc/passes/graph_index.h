#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <unordered_map>
#include <vector>

namespace torch_trt_ext::passes {

/// Numbers a graph's nodes and values in program order, inner blocks included. Copies of a graph number alike, so a
/// number means the same node in each of them. Valid until the graph changes.
class GraphIndex {
 public:
  explicit GraphIndex(torch::jit::Graph& graph);

  const std::vector<torch::jit::Node*>& nodes() const { return nodes_; }
  const std::vector<torch::jit::Value*>& values() const { return values_; }
  size_t id_of(const torch::jit::Node* node) const { return node_ids_.at(node); }
  size_t id_of(const torch::jit::Value* value) const { return value_ids_.at(value); }

 private:
  void visit(torch::jit::Block* block);

  std::vector<torch::jit::Node*> nodes_;
  std::vector<torch::jit::Value*> values_;
  std::unordered_map<const torch::jit::Node*, size_t> node_ids_;
  std::unordered_map<const torch::jit::Value*, size_t> value_ids_;
};

}  // namespace torch_trt_ext::passes
