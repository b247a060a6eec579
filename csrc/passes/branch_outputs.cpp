#include "passes/branch_outputs.h"

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
namespace prim = c10::prim;

bool can_take_apart(const Value* value) {
  return value->node()->kind() == prim::TupleConstruct || value->node()->kind() == prim::Uninitialized;
}

Value* element_of(Graph& graph, Block* block, Value* tuple, size_t index, const c10::TypePtr& type) {
  if (tuple->node()->kind() == prim::TupleConstruct) {
    return tuple->node()->input(index);
  }
  const torch::jit::WithInsertPoint guard(block);
  return graph.insertNode(graph.createUninitialized(type))->output();
}

bool flatten(Graph& graph, Block* block) {
  bool changed = false;
  const std::vector<Node*> nodes(block->nodes().begin(), block->nodes().end());
  for (Node* const node : nodes) {
    for (Block* const inner : node->blocks()) {
      changed = flatten(graph, inner) || changed;
    }
    if (node->kind() != prim::If) {
      continue;
    }
    for (size_t index = 0; index < node->outputs().size();) {
      const auto type = node->output(index)->type()->cast<c10::TupleType>();
      if (type == nullptr || !can_take_apart(node->blocks()[0]->outputs()[index]) ||
          !can_take_apart(node->blocks()[1]->outputs()[index])) {
        ++index;
        continue;
      }
      std::vector<Value*> elements;
      for (size_t part = 0; part < type->elements().size(); ++part) {
        for (Block* const inner : node->blocks()) {
          inner->registerOutput(element_of(graph, inner, inner->outputs()[index], part, type->elements()[part]));
        }
        elements.push_back(node->addOutput()->setType(type->elements()[part]));
      }
      Node* const tuple = graph.createTuple(elements, type->schema() ? type : nullptr);
      tuple->insertAfter(node);
      node->output(index)->replaceAllUsesWith(tuple->output());
      for (Block* const inner : node->blocks()) {
        inner->eraseOutput(index);
      }
      node->eraseOutput(index);
      changed = true;
    }
  }
  return changed;
}

Node* clone_with_outputs(Graph& graph, Node* node, const std::unordered_set<size_t>& kept) {
  Node* const copy = graph.createClone(node, [](Value* value) { return value; });
  copy->insertBefore(node);
  for (size_t index = node->outputs().size(); index-- > 0;) {
    if (kept.count(index) == 0) {
      for (Block* const inner : copy->blocks()) {
        inner->eraseOutput(index);
      }
      copy->eraseOutput(index);
    }
  }
  torch::jit::EliminateDeadCode(copy->blocks()[0]);
  torch::jit::EliminateDeadCode(copy->blocks()[1]);
  return copy;
}

bool split(const std::shared_ptr<Graph>& graph, Block* block) {
  bool changed = false;
  const std::vector<Node*> nodes(block->nodes().begin(), block->nodes().end());
  for (Node* const node : nodes) {
    if (node->kind() == prim::If) {
      std::unordered_set<size_t> plain;
      for (size_t index = 0; index < node->outputs().size(); ++index) {
        if (is_plain_type(*node->output(index)->type())) {
          plain.insert(index);
        }
      }
      if (!plain.empty() && plain.size() < node->outputs().size()) {
        Node* const copy = clone_with_outputs(*graph, node, plain);
        if (is_plain_computation(copy)) {
          size_t taken = 0;
          for (size_t index = 0; index < node->outputs().size(); ++index) {
            if (plain.count(index) != 0) {
              node->output(index)->replaceAllUsesWith(copy->output(taken++));
            }
          }
          for (size_t index = node->outputs().size(); index-- > 0;) {
            if (plain.count(index) != 0) {
              for (Block* const inner : node->blocks()) {
                inner->eraseOutput(index);
              }
              node->eraseOutput(index);
            }
          }
          changed = true;
        } else {
          copy->destroy();
        }
      }
    }
    for (Block* const inner : node->blocks()) {
      changed = split(graph, inner) || changed;
    }
  }
  return changed;
}

}  // namespace

bool flatten_branch_tuples(const std::shared_ptr<Graph>& graph) {
  return flatten(*graph, graph->block());
}

bool split_plain_branch_outputs(const std::shared_ptr<Graph>& graph) {
  return split(graph, graph->block());
}

}  // namespace torch_trt_ext::passes
