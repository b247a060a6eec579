#include "passes/attributes.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;
namespace aten = c10::aten;
namespace prim = c10::prim;

/// What an attribute was set to, and the type of its object.
struct Setting {
  Value* value;
  c10::TypePtr owner;
};

/// By the attribute's path from the model.
using Known = std::map<std::string, Setting>;

/// Whether code outside the graph may run in a block, which may set attributes.
bool calls_others(const Block* block) {
  return std::any_of(block->nodes().begin(), block->nodes().end(), [](const Node* node) {
    return node->kind() == prim::CallMethod || node->kind() == prim::CallFunction || node->kind() == prim::fork ||
           node->kind() == aten::wait || node->hasAttribute(c10::attr::Subgraph) ||
           std::any_of(node->blocks().begin(), node->blocks().end(), calls_others);
  });
}

class AttributeForwarder {
 public:
  explicit AttributeForwarder(const Graph& graph) : model_(graph.inputs().at(0)) {}

  bool run(Block* block) {
    visit(block, {});
    return changed_;
  }

 private:
  void visit(Block* block, Known known) {
    for (Node* const node : block->nodes()) {
      if (node->kind() == prim::SetAttr) {
        forget(node, known);
        if (const std::optional<std::string> path = path_of(node->input(0))) {
          known[attribute_of(node, *path)] = {node->input(1), node->input(0)->type()};
        }
      } else if (node->kind() == prim::GetAttr) {
        read(node, known);
      } else if (!node->blocks().empty()) {
        Known after = known;
        forget_inside(node, after);
        for (Block* const inner : node->blocks()) {
          // A loop's body sees what earlier rounds set.
          visit(inner, node->kind() == prim::Loop ? after : known);
        }
        known = after;
      }
    }
  }

  void read(Node* node, const Known& known) {
    const std::optional<std::string> path = path_of(node->input());
    const auto found = path ? known.find(attribute_of(node, *path)) : known.end();
    if (found == known.end() || !node->hasUses()) {
      return;
    }
    Value* const value = found->second.value;
    // An Optional attribute may be known to be a Tensor; one that is known to be None would not type everywhere.
    if (value->type()->kind() != c10::TypeKind::NoneType && value->type()->isSubtypeOf(*node->output()->type())) {
      node->output()->replaceAllUsesWith(value);
      changed_ = true;
    }
  }

  /// Objects of one type may be one object under two names.
  static void forget(const Node* setter, Known& known) {
    const std::string name = setter->s(c10::attr::name);
    // What a name leads to may be another object from there on.
    const bool is_object = setter->input(1)->type()->cast<c10::ClassType>() != nullptr ||
                           setter->input(1)->type()->cast<c10::InterfaceType>() != nullptr;
    for (auto entry = known.begin(); entry != known.end();) {
      const bool same_name = entry->first.substr(entry->first.rfind('.') + 1) == name;
      const bool same = same_name && *entry->second.owner == *setter->input(0)->type();
      entry = is_object || same ? known.erase(entry) : std::next(entry);
    }
  }

  static void forget_inside(const Node* node, Known& known) {
    for (const Block* const block : node->blocks()) {
      for (const Node* const inner : block->nodes()) {
        if (inner->kind() == prim::SetAttr) {
          forget(inner, known);
        }
        forget_inside(inner, known);
      }
    }
  }

  static std::string attribute_of(const Node* node, const std::string& path) {
    return path + "." + node->s(c10::attr::name);
  }

  std::optional<std::string> path_of(const Value* object) const {
    if (object == model_) {
      return "";
    }
    if (object->node()->kind() != prim::GetAttr) {
      return std::nullopt;
    }
    const std::optional<std::string> path = path_of(object->node()->input());
    return path ? std::optional(attribute_of(object->node(), *path)) : std::nullopt;
  }

  const Value* model_;
  bool changed_ = false;
};

}  // namespace

bool forward_attributes(const std::shared_ptr<Graph>& graph) {
  return !calls_others(graph->block()) && AttributeForwarder(*graph).run(graph->block());
}

}  // namespace torch_trt_ext::passes
