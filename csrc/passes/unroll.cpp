#include "passes/unroll.h"

#include <torch/csrc/jit/ir/constants.h>

#include <unordered_map>
#include <vector>

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

size_t count_nodes(const Block* block) {
  size_t count = 0;
  for (const Node* const node : block->nodes()) {
    ++count;
    for (const Block* const inner : node->blocks()) {
      count += count_nodes(inner);
    }
  }
  return count;
}

bool is_true(const Value* value) {
  const auto constant = torch::jit::toIValue(value);
  return constant && constant->isBool() && constant->toBool();
}

class Unroller {
 public:
  Unroller(const std::shared_ptr<Graph>& graph, size_t max_nodes)
      : graph_(graph), budget_(max_nodes), used_(count_nodes(graph->block())) {}

  bool run() {
    visit(graph_->block());
    return changed_;
  }

 private:
  void visit(Block* block) {
    const std::vector<Node*> nodes(block->nodes().begin(), block->nodes().end());
    for (Node* const node : nodes) {
      for (Block* const inner : node->blocks()) {
        visit(inner);
      }
      if (node->kind() == c10::prim::Loop) {
        try_unroll(node);
      }
    }
  }

  void try_unroll(Node* loop) {
    Block* const body = loop->blocks().at(0);
    const auto trip_count = torch::jit::toIValue(loop->input(0));
    if (!trip_count || !is_true(loop->input(1)) || !is_true(body->outputs().at(0))) {
      return;
    }
    const auto rounds = static_cast<size_t>(std::max<int64_t>(trip_count->toInt(), 0));
    const size_t body_nodes = count_nodes(body);
    if (rounds != 0 && body_nodes > (budget_ - std::min(budget_, used_)) / rounds) {
      return;
    }
    used_ += rounds * body_nodes;
    const torch::jit::WithInsertPoint guard(loop);
    std::vector<Value*> carried = loop->inputs().slice(2).vec();
    for (size_t round = 0; round < rounds; ++round) {
      std::unordered_map<Value*, Value*> copies;
      copies[body->inputs().at(0)] = graph_->insertConstant(static_cast<int64_t>(round));
      for (size_t index = 0; index < carried.size(); ++index) {
        copies[body->inputs().at(index + 1)] = carried[index];
      }
      const auto copy_of = [&copies](Value* value) {
        const auto found = copies.find(value);
        return found == copies.end() ? value : found->second;
      };
      for (Node* const node : body->nodes()) {
        Node* const copy = graph_->insertNode(graph_->createClone(node, copy_of));
        for (size_t index = 0; index < node->outputs().size(); ++index) {
          copies[node->output(index)] = copy->output(index);
        }
      }
      for (size_t index = 0; index < carried.size(); ++index) {
        carried[index] = copy_of(body->outputs().at(index + 1));
      }
    }
    for (size_t index = 0; index < carried.size(); ++index) {
      loop->output(index)->replaceAllUsesWith(carried[index]);
    }
    loop->destroy();
    changed_ = true;
  }

  std::shared_ptr<Graph> graph_;
  size_t budget_;
  size_t used_;
  bool changed_ = false;
};

}  // namespace

bool unroll_loops(const std::shared_ptr<Graph>& graph, size_t max_nodes) {
  return Unroller(graph, max_nodes).run();
}

}  // namespace torch_trt_ext::passes
