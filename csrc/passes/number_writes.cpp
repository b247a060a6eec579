#include "passes/number_writes.h"

#include <torch/csrc/jit/ir/alias_analysis.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::AliasDb;
using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Value;
using torch::jit::ValueSet;
using torch::jit::WithInsertPoint;
namespace aten = c10::aten;
namespace prim = c10::prim;

Symbol symbol(const char* name) {
  return Symbol::fromQualString(name);
}

/// Whether a node makes a new tensor whose elements are constants.
bool fills_new_tensor(const Node* node) {
  static const std::unordered_set<Symbol> kinds = {
      aten::zeros,    aten::ones,       aten::full,      symbol("aten::new_zeros"), symbol("aten::new_ones"),
      aten::new_full, aten::zeros_like, aten::ones_like, aten::full_like,
  };
  return kinds.count(node->kind()) != 0 ||
         (node->kind() == aten::clone && node->input(0)->node()->kind() == prim::Constant);
}

/// A part of a tensor, and what puts a part back.
const std::unordered_map<Symbol, Symbol>& scatter_of() {
  static const std::unordered_map<Symbol, Symbol> kinds = {
      {aten::slice, symbol("aten::slice_scatter")},
      {aten::select, symbol("aten::select_scatter")},
  };
  return kinds;
}

/// Writes of one value to all elements, and their ordinary forms.
const std::unordered_map<Symbol, Symbol>& ordinary_of() {
  static const std::unordered_map<Symbol, Symbol> kinds = {
      {aten::copy_, aten::copy},
      {aten::fill_, symbol("aten::fill")},
      {aten::zero_, symbol("aten::zero")},
  };
  return kinds;
}

bool is_number(const Value* value) {
  const auto kind = value->node()->kind();
  return !is_tensor(value) || kind == prim::Constant || kind == aten::tensor;
}

struct Write {
  Node* node = nullptr;
  /// From the new tensor to what is written to.
  std::vector<Node*> views;
};

class Functionalizer {
 public:
  explicit Functionalizer(const std::shared_ptr<Graph>& graph) : graph_(graph), alias_db_(graph) {}

  bool run() {
    collect(graph_->block());
    for (Node* const node : made_) {
      changed_ = functionalize(node->output()) || changed_;
    }
    return changed_;
  }

 private:
  void collect(Block* block) {
    for (Node* const node : block->nodes()) {
      if (node->blocks().empty() && any_mutable(node)) {
        writers_.push_back(node);
      }
      if (fills_new_tensor(node)) {
        made_.push_back(node);
      }
      for (Block* const inner : node->blocks()) {
        collect(inner);
      }
    }
  }

  bool functionalize(Value* tensor) {
    std::vector<Write> writes;
    for (Node* const writer : writers_) {
      if (alias_db_.writesToAlias(writer, ValueSet{tensor})) {
        Write write = {writer, {}};
        if (!follow(tensor, write)) {
          return false;
        }
        writes.push_back(std::move(write));
      }
    }
    if (writes.empty() || !is_unseen_before(tensor, writes)) {
      return false;
    }
    const std::vector<torch::jit::Use> uses = tensor->uses();
    Value* current = tensor;
    for (const Write& write : writes) {
      current = written(current, write);
    }
    for (const torch::jit::Use& use : uses) {
      if (is_behind(use.user, writes.back().node)) {
        use.user->replaceInput(use.offset, current);
      }
    }
    for (const Write& write : writes) {
      writers_.erase(std::find(writers_.begin(), writers_.end(), write.node));
      write.node->destroy();
    }
    return true;
  }

  /// Finds the views from the tensor to what is written to. False if the write is of another kind or is seen elsewhere.
  static bool follow(const Value* tensor, Write& write) {
    const auto stays_here = [tensor](const Node* node) { return node->owningBlock() == tensor->node()->owningBlock(); };
    const Node* const node = write.node;
    if (ordinary_of().count(node->kind()) == 0 || !stays_here(node) || node->hasUses() ||
        (node->inputs().size() > 1 && !is_number(node->input(1)))) {
      return false;
    }
    const Value* target = node->input(0);
    for (const Node* user = node; target != tensor; target = target->node()->input(0)) {
      Node* const view = const_cast<Node*>(target->node());
      // Other names under which someone reads what is written.
      const bool is_seen = std::any_of(target->uses().begin(), target->uses().end(), [user](const auto& use) {
        return use.user != user && !reads_metadata_only(use.user);
      });
      if (scatter_of().count(view->kind()) == 0 || !is_tensor(view->input(0)) || !stays_here(view) || is_seen) {
        return false;
      }
      write.views.insert(write.views.begin(), view);
      user = view;
    }
    return true;
  }

  /// Whether nobody has the tensor's elements, under any name, before they are all written.
  bool is_unseen_before(const Value* tensor, const std::vector<Write>& writes) const {
    return std::all_of(tensor->uses().begin(), tensor->uses().end(), [&](const torch::jit::Use& use) {
      const bool is_write = std::any_of(writes.begin(), writes.end(), [&use](const Write& write) {
        return (write.views.empty() ? write.node : write.views[0]) == use.user;
      });
      return is_write || reads_metadata_only(use.user) || is_behind(use.user, writes.back().node);
    });
  }

  /// Whether a node, or the branch or loop around it, comes after another.
  static bool is_behind(const Node* node, const Node* other) {
    while (node->owningBlock() != other->owningBlock()) {
      node = node->owningBlock()->owningNode();
    }
    return node != other && node->isAfter(other);
  }

  /// The tensor after a write, as a new value. The views stay for those who ask for their dtype or device.
  Value* written(Value* tensor, const Write& write) {
    const WithInsertPoint guard(write.node);
    std::vector<Value*> parts = {tensor};
    for (Node* const view : write.views) {
      parts.push_back(insert_like(view, view->kind(), {parts.back()}, 1));
    }
    Value* result = insert_like(write.node, ordinary_of().at(write.node->kind()), {parts.back()}, 1);
    for (size_t index = write.views.size(); index-- > 0;) {
      Node* const view = write.views[index];
      result = insert_like(view, scatter_of().at(view->kind()), {parts[index], result}, 1);
    }
    return result;
  }

  /// A node of another kind, with the node's inputs from the given one on behind those given.
  Value* insert_like(Node* node, Symbol kind, std::vector<Value*> inputs, size_t from) {
    const auto others = node->inputs().slice(from);
    inputs.insert(inputs.end(), others.begin(), others.end());
    Node* const created = graph_->insertNode(graph_->create(kind, inputs, 1));
    created->copyMetadata(node);
    return created->output();
  }

  std::shared_ptr<Graph> graph_;
  AliasDb alias_db_;
  std::vector<Node*> writers_;
  std::vector<Node*> made_;
  bool changed_ = false;
};

}  // namespace

bool functionalize_number_writes(const std::shared_ptr<Graph>& graph) {
  return Functionalizer(graph).run();
}

}  // namespace torch_trt_ext::passes
