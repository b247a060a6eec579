#include "passes/attributes.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "passes/node_facts.h"

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

/// The path of an attribute's object from the model, and the attribute's name.
using Attribute = std::pair<std::string, std::string>;
using Known = std::map<Attribute, Setting>;

/// Whether a node may run code outside the graph, which may set attributes.
bool calls_others(const Node* node) {
  return node->kind() == prim::CallMethod || node->kind() == prim::CallFunction || node->kind() == prim::fork ||
         node->kind() == aten::wait || node->hasAttribute(c10::attr::Subgraph) || any_inside(node, calls_others);
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
        if (const std::optional<Attribute> attribute = attribute_of(node)) {
          known[*attribute] = {node->input(1), node->input(0)->type()};
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
    const std::optional<Attribute> attribute = attribute_of(node);
    const auto found = attribute ? known.find(*attribute) : known.end();
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
      const bool same = entry->first.second == name && *entry->second.owner == *setter->input(0)->type();
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

  /// What a node reads or sets, if its object is the model's.
  std::optional<Attribute> attribute_of(const Node* node) const {
    const std::optional<std::string> path = path_of(node->input(0));
    return path ? std::optional(Attribute(*path, node->s(c10::attr::name))) : std::nullopt;
  }

  std::optional<std::string> path_of(const Value* object) const {
    if (object == model_) {
      return "";
    }
    if (object->node()->kind() != prim::GetAttr) {
      return std::nullopt;
    }
    const std::optional<Attribute> attribute = attribute_of(object->node());
    return attribute ? std::optional(attribute->first + "." + attribute->second) : std::nullopt;
  }

  const Value* model_;
  bool changed_ = false;
};

}  // namespace

bool forward_attributes(const std::shared_ptr<Graph>& graph) {
  const auto nodes = graph->nodes();
  return std::none_of(nodes.begin(), nodes.end(), calls_others) && AttributeForwarder(*graph).run(graph->block());
}

}  // namespace torch_trt_ext::passes
