#include "passes/view_writes.h"

#include <torch/csrc/jit/ir/alias_analysis.h>

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "passes/graph_index.h"
#include "passes/hidden_aliases.h"
#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::AliasDb;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Use;
using torch::jit::Value;
namespace aten = c10::aten;
namespace prim = c10::prim;

using Values = std::unordered_set<const Value*>;

/// Views that show no element twice, so that writing to them is the same as computing their elements anew.
bool shows_elements_once(const Node* node) {
  static const std::unordered_set<Symbol> kinds = {
      aten::slice,   aten::select,    aten::narrow,   aten::view,       aten::view_as, aten::reshape,
      aten::flatten, aten::unflatten, aten::permute,  aten::transpose,  aten::t,       aten::movedim,
      aten::squeeze, aten::unsqueeze, aten::swapaxes, aten::contiguous, aten::detach,  aten::alias,
      aten::numpy_T, aten::swapdims,  aten::diagonal, aten::moveaxis,
  };
  return kinds.count(node->kind()) != 0;
}

/// An operator such as `add_`: it writes the data of its first input, which it gives, and of no other.
bool writes_first_input(const Node* node) {
  if (!node->kind().is_aten() || !is_schema_mutable(node) || writes_sizes(node) || !node->blocks().empty() ||
      node->outputs().size() != 1 || node->inputs().empty() || !is_tensor(node->input(0))) {
    return false;
  }
  const auto& arguments = node->schema().arguments();
  const auto is_written = [](const c10::Argument& argument) {
    return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
  };
  return is_written(arguments.front()) && std::count_if(arguments.begin(), arguments.end(), is_written) == 1;
}

/// Whether the schema says that an output is a new value.
bool gives_new(const Node* node, size_t output) {
  const auto& returns = node->schema().returns();
  return output < returns.size() && returns[output].alias_info() == nullptr;
}

/// The new tensor that the operator's target is a view of; none where this is not known or in another block, which may
/// run more often or less often.
Value* find_base(Node* writer) {
  Value* value = writer->input(0);
  while (true) {
    const Node* const node = value->node();
    if (node->owningBlock() != writer->owningBlock() || !node->kind().is_aten() || node->maybeSchema() == nullptr ||
        hides_alias(node) || !is_tensor(value)) {
      return nullptr;
    }
    if (gives_new(node, value->offset())) {
      return value;
    }
    if (!shows_elements_once(node) && !writes_first_input(node)) {
      return nullptr;
    }
    value = const_cast<Value*>(node->input(0));
  }
}

/// The operator that puts a view's elements back into what it is a view of; none where there is no such operator.
std::optional<Symbol> scatter_kind(const Node* view) {
  static const std::unordered_map<Symbol, Symbol> kinds = {
      {aten::slice, Symbol::fromQualString("aten::slice_scatter")},
      {aten::select, Symbol::fromQualString("aten::select_scatter")},
  };
  const auto found = kinds.find(view->kind());
  return found == kinds.end() || !is_tensor(view->input(0)) ? std::nullopt : std::make_optional(found->second);
}

/// Whether `base` can be computed anew from what an operator writes to a view of it.
bool can_put_back(const Node* writer, const Value* base) {
  const Value* value = writer->input(0);
  while (value != base && scatter_kind(value->node())) {
    value = value->node()->input(0);
  }
  return value == base;
}

/// `base` with `written` in the place of the writer's target, computed before the writer.
Value* put_back(Graph& graph, Node* writer, const Value* base, Value* written) {
  for (Value* value = writer->input(0); value != base; value = value->node()->input(0)) {
    Node* const view = value->node();
    std::vector<Value*> inputs = view->inputs().vec();
    inputs.insert(inputs.begin() + 1, written);
    Node* const scatter = graph.create(*scatter_kind(view), inputs, 1);
    scatter->insertBefore(writer);
    scatter->copyMetadata(writer);
    scatter->output()->setType(view->input(0)->type());
    written = scatter->output();
  }
  return written;
}

/// Adds what a node makes of the tensors that one of its inputs is or holds to the values that share memory with them.
/// False where they may go elsewhere too.
bool follow_use(const Use& use, std::vector<Value*>& shared) {
  Node* const node = use.user;
  if (node->kind() == prim::ListConstruct || node->kind() == prim::TupleConstruct || node->kind() == prim::ListUnpack ||
      node->kind() == prim::TupleUnpack || node->kind() == prim::unchecked_cast) {
    shared.insert(shared.end(), node->outputs().begin(), node->outputs().end());
    return true;
  }
  if (reads_metadata_only(node)) {
    return true;
  }
  const torch::jit::FunctionSchema* const schema = node->maybeSchema();
  if (!node->kind().is_aten() || schema == nullptr || use.offset >= schema->arguments().size() || hides_alias(node) ||
      (is_schema_mutable(node) && !writes_first_input(node))) {
    return false;
  }
  if (schema->arguments()[use.offset].alias_info() == nullptr) {
    return true;
  }
  for (Value* const output : node->outputs()) {
    if (!gives_new(node, output->offset())) {
      shared.push_back(output);
    }
  }
  return true;
}

/// Whether nothing reads the memory of `base` after the write but through the writer's target or what it gives, or
/// else through `base` alone, where that can be computed anew.
bool one_is_read_later(Node* writer, Value* base, const std::vector<Value*>& values, const AliasDb& alias_db) {
  Value* const target = writer->input(0);
  bool target_is_read = writer->output()->hasUses();
  bool base_is_read = false;
  Values shared;
  std::vector<Value*> waiting = {base};
  while (!waiting.empty()) {
    Value* const value = waiting.back();
    waiting.pop_back();
    if (!shared.insert(value).second) {
      continue;
    }
    for (const Use& use : value->uses()) {
      if (use.user == writer) {
        continue;
      }
      if (!use.user->isAfter(writer)) {
        if (!follow_use(use, waiting)) {
          return false;
        }
      } else if (!reads_metadata_only(use.user)) {
        if (value != target && value != base) {
          return false;
        }
        target_is_read = target_is_read || value == target;
        base_is_read = base_is_read || value == base;
      }
    }
  }
  // Both would show each other's later writes.
  if (base_is_read && target != base && (target_is_read || !can_put_back(writer, base))) {
    return false;
  }
  // Whatever AliasDb has found beyond that: containers, loops, inputs, state.
  return std::all_of(values.begin(), values.end(), [&](Value* value) {
    return shared.count(value) != 0 || value->node() == writer || value->node()->isAfter(writer) ||
           !alias_db.mayContainAlias(value, target);
  });
}

/// The operator that gives what another one writes, inserted before that one; none where there is no such operator.
Node* insert_ordinary_form(Graph& graph, Node* writer) {
  std::string name = writer->kind().toQualString();
  if (name.size() < 2 || name.back() != '_' || name[name.size() - 2] == '_') {
    return nullptr;
  }
  name.pop_back();
  Node* const node = graph.create(Symbol::fromQualString(name), writer->inputs(), 1);
  node->insertBefore(writer);
  node->copyMetadata(writer);
  node->output()->setType(writer->output()->type());
  if (node->maybeSchema() == nullptr || is_schema_mutable(node) || !gives_new(node, 0) || hides_alias(node)) {
    node->destroy();
    return nullptr;
  }
  return node;
}

}  // namespace

bool functionalize_view_writes(const std::shared_ptr<Graph>& graph, const std::function<bool(Node*)>& is_allowed) {
  const AliasDb alias_db(graph);
  const GraphIndex index(*graph);
  const Values known(index.values().begin(), index.values().end());
  std::vector<Node*> replaced;
  for (Node* const writer : index.nodes()) {
    if (!writes_first_input(writer) || !is_allowed(writer) || known.count(writer->input(0)) == 0) {
      continue;
    }
    Value* const base = find_base(writer);
    if (base == nullptr || !one_is_read_later(writer, base, index.values(), alias_db)) {
      continue;
    }
    if (const Node* const ordinary = insert_ordinary_form(*graph, writer)) {
      if (can_put_back(writer, base)) {
        base->replaceAllUsesAfterNodeWith(writer,
                                          put_back(*graph, writer, base, const_cast<Value*>(ordinary->output())));
      }
      writer->input(0)->replaceAllUsesAfterNodeWith(writer, const_cast<Value*>(ordinary->output()));
      writer->output()->replaceAllUsesWith(const_cast<Value*>(ordinary->output()));
      replaced.push_back(writer);
    }
  }
  // Only now, since AliasDb knows these values until then.
  for (Node* const writer : replaced) {
    writer->destroy();
  }
  return !replaced.empty();
}

}  // namespace torch_trt_ext::passes
