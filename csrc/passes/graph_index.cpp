#include "passes/graph_index.h"

namespace torch_trt_ext::passes {

GraphIndex::GraphIndex(torch::jit::Graph& graph) {
  visit(graph.block());
}

void GraphIndex::visit(torch::jit::Block* block) {
  const auto add_value = [this](torch::jit::Value* value) {
    value_ids_[value] = values_.size();
    values_.push_back(value);
  };
  for (torch::jit::Value* const input : block->inputs()) {
    add_value(input);
  }
  for (torch::jit::Node* const node : block->nodes()) {
    node_ids_[node] = nodes_.size();
    nodes_.push_back(node);
    for (torch::jit::Value* const output : node->outputs()) {
      add_value(output);
    }
    for (torch::jit::Block* const inner : node->blocks()) {
      visit(inner);
    }
  }
}

}  // namespace torch_trt_ext::passes
