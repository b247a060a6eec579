#include "passes/node_roles.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>

#include "passes/hidden_aliases.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::AliasDb;
using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Value;
namespace aten = c10::aten;
namespace prim = c10::prim;

/// Whether two names can stand for one value of this type, so that a write under one is seen under the other.
bool can_be_shared(const c10::Type& type) {
  if (type.kind() == c10::TypeKind::OptionalType || type.kind() == c10::TypeKind::TupleType) {
    return std::any_of(type.containedTypes().begin(), type.containedTypes().end(),
                       [](const c10::TypePtr& contained) { return can_be_shared(*contained); });
  }
  return type.kind() == c10::TypeKind::ListType || !is_plain_type(type);
}

/// The values that a container built in this graph holds, or the value itself.
void collect_leaves(Value* value, std::vector<Value*>& leaves) {
  const auto kind = value->node()->kind();
  if (kind == prim::TupleConstruct || kind == prim::ListConstruct || kind == prim::DictConstruct) {
    for (Value* const input : value->node()->inputs()) {
      collect_leaves(input, leaves);
    }
  } else if (can_be_shared(*value->type()) && std::find(leaves.begin(), leaves.end(), value) == leaves.end()) {
    leaves.push_back(value);
  }
}

std::string name_of(const Value* value) {
  return "%" + value->debugName() + " (" + value->type()->str() + ")";
}

}  // namespace

NodeRoles::NodeRoles(const std::shared_ptr<torch::jit::Graph>& graph, const GraphIndex& index, const AliasDb& alias_db,
                     std::unordered_map<size_t, std::string> excluded, TakenBranches taken)
    : index_(index), alias_db_(alias_db), excluded_(std::move(excluded)), taken_(std::move(taken)) {
  for (Value* const output : graph->outputs()) {
    collect_leaves(output, returned_);
  }
  for (Value* const input : graph->inputs()) {
    if (can_be_shared(*input->type()) && input->type()->kind() != c10::ClassType::Kind) {
      given_.push_back(input);
    }
  }
  for (Node* const node : index.nodes()) {
    if (node->kind() == prim::GetAttr && can_be_shared(*node->output()->type()) &&
        node->output()->type()->kind() != c10::ClassType::Kind) {
      given_.push_back(node->output());
    } else if (node->kind() == prim::SetAttr) {
      collect_leaves(node->input(1), returned_);
    }
  }
  std::copy_if(index.nodes().begin(), index.nodes().end(), std::back_inserter(resizers_), writes_sizes);
  find_escaping();
  visit(graph->block());
  find_must_run();
}

/// Follows what the caller gets back to where its memory comes from.
void NodeRoles::find_escaping() {
  std::vector<const Value*> waiting(returned_.begin(), returned_.end());
  for (const Node* const node : index_.nodes()) {
    // What is put into a container or handed to a call may come back in any way.
    const bool keeps_inputs = is_schema_mutable(node) && !node->inputs().empty() && !is_tensor(node->input(0));
    const bool calls = node->maybeSchema() == nullptr && node->blocks().empty() && node->hasSideEffects();
    if (keeps_inputs || calls || node->kind() == aten::set_) {
      waiting.insert(waiting.end(), node->inputs().begin(), node->inputs().end());
    }
  }
  while (!waiting.empty()) {
    const Value* const value = waiting.back();
    waiting.pop_back();
    if (!can_be_shared(*value->type()) || !escaping_.insert(value).second) {
      continue;
    }
    const Node* const node = value->node();
    if (node->kind() == prim::Param) {
      const Node* const owner = node->owningBlock()->owningNode();
      if (owner != nullptr) {
        const std::vector<Value*> needed = needed_values(owner);
        waiting.insert(waiting.end(), needed.begin(), needed.end());
        waiting.insert(waiting.end(), node->owningBlock()->outputs().begin(), node->owningBlock()->outputs().end());
      }
      continue;
    }
    const torch::jit::FunctionSchema* const schema = node->maybeSchema();
    const bool is_fresh = schema != nullptr && !hides_alias(node) && value->offset() < schema->returns().size() &&
                          schema->returns()[value->offset()].alias_info() == nullptr;
    if (!is_fresh) {
      waiting.insert(waiting.end(), node->inputs().begin(), node->inputs().end());
      for (const Block* const block : node->blocks()) {
        waiting.insert(waiting.end(), block->outputs().begin(), block->outputs().end());
      }
    }
  }
}

void NodeRoles::find_must_run() {
  const bool any_effect = std::any_of(index_.nodes().begin(), index_.nodes().end(),
                                      [this](const Node* node) { return node->blocks().empty() && has_effect(node); });
  for (const Node* const node : index_.nodes()) {
    if (roles_.at(node) == Role::kPlain && raises(node) && (any_effect || may_raise(node))) {
      must_run_.insert(node);
    }
  }
}

bool NodeRoles::raises(const Node* node) {
  return any_inside(node, [](const Node* inner) { return inner->kind() == prim::RaiseException || raises(inner); });
}

/// Whether the node can raise where an engine would run: not where the engine's own checks decide the branch.
bool NodeRoles::may_raise(const Node* node) const {
  if (node->kind() == prim::RaiseException) {
    return true;
  }
  const auto taken = node->kind() == prim::If ? taken_.find(index_.id_of(node)) : taken_.end();
  for (size_t branch = 0; branch < node->blocks().size(); ++branch) {
    if (taken != taken_.end() && taken->second != branch) {
      continue;
    }
    const auto nodes = node->blocks()[branch]->nodes();
    if (std::any_of(nodes.begin(), nodes.end(), [this](const Node* inner) { return may_raise(inner); })) {
      return true;
    }
  }
  return false;
}

bool NodeRoles::has_effect(const Node* node) const {
  if (any_inside(node, [this](const Node* inner) { return has_effect(inner); })) {
    return true;
  }
  if (!node->blocks().empty() || node->kind() == prim::RaiseException) {
    return false;
  }
  if ((node->hasSideEffects() && !reads_mode(node)) || draws_random_numbers(node)) {
    return true;
  }
  return any_mutable(node) &&
         alias_db_.writesToAlias(const_cast<Node*>(node), torch::jit::ValueSet(given_.begin(), given_.end()));
}

void NodeRoles::visit(Block* block) {
  for (Node* const node : block->nodes()) {
    for (Block* const inner : node->blocks()) {
      visit(inner);
    }
    roles_[node] = classify(node);
  }
}

Role NodeRoles::classify(Node* node) {
  if (node->kind() == prim::Constant) {
    return Role::kConstant;
  }
  if (is_plain(node)) {
    return Role::kPlain;
  }
  std::string reason = why_never_operator(node);
  const auto excluded = excluded_.find(index_.id_of(node));
  if (reason.empty()) {
    reason = excluded == excluded_.end() ? why_not_operator(node) : excluded->second;
  }
  return (reasons_[node] = std::move(reason)).empty() ? Role::kOperator : Role::kTorch;
}

bool NodeRoles::is_plain(const Node* node) const {
  // A node that only raises has no outputs to compute again.
  if (node->outputs().empty()) {
    return false;
  }
  const bool lists_tensors = node->kind() == prim::ListConstruct && is_tensor_list(node->output()) &&
                             std::all_of(node->inputs().begin(), node->inputs().end(), [](const Value* element) {
                               return is_tensor(element) ||
                                      (is_optional_tensor(element) && element->node()->kind() == prim::Constant) ||
                                      element->type()->kind() == c10::TypeKind::NoneType;
                             });
  if (lists_tensors) {
    // The elements may be written to: the list holds them, not their data.
    if (alias_db_.hasWriters(node->output()) ||
        std::any_of(node->inputs().begin(), node->inputs().end(),
                    [this](const Value* element) { return is_resized(element); })) {
      return false;
    }
  } else if (!is_plain_computation(node) && !is_scalar_tensor_computation(node)) {
    return false;
  } else if (reads_written(node)) {
    return false;
  }
  const std::vector<Value*> needed = needed_values(node);
  return std::all_of(needed.begin(), needed.end(), [this](const Value* value) { return can_be_inside(value); });
}

/// Whether it matters when the node runs, since what it reads is written to. Writes to data leave metadata as it is.
bool NodeRoles::reads_written(const Node* node) const {
  for (const Block* const block : node->blocks()) {
    for (const Node* const inner : block->nodes()) {
      if (reads_written(inner)) {
        return true;
      }
    }
  }
  if (!reads_metadata_only(node)) {
    return alias_db_.hasWriters(node);
  }
  return alias_db_.hasOutputWriters(node) || std::any_of(node->inputs().begin(), node->inputs().end(),
                                                         [this](const Value* input) { return is_resized(input); });
}

/// Whether the value's sizes are written to somewhere: what was seen of them then holds at one moment only.
bool NodeRoles::is_resized(const Value* value) const {
  return std::any_of(resizers_.begin(), resizers_.end(),
                     [&](Node* resizer) { return alias_db_.writesToAlias(resizer, {value}); });
}

bool NodeRoles::is_scalar_tensor_computation(const Node* node) const {
  static const Symbol num_to_tensor = Symbol::fromQualString("prim::NumToTensor");
  if (node->kind() == num_to_tensor) {
    return true;
  }
  if (!node->kind().is_aten() || is_schema_mutable(node) || node->hasSideEffects() || draws_random_numbers(node) ||
      node->outputs().size() != 1 || (!is_tensor(node->output()) && !is_plain_type(*node->output()->type()))) {
    return false;
  }
  bool any = false;
  for (const Value* const input : node->inputs()) {
    if (is_tensor(input)) {
      const auto producer = roles_.find(input->node());
      const bool scalar = producer != roles_.end() && producer->second == Role::kPlain;
      const bool constant = input->node()->kind() == prim::Constant && torch::jit::toIValue(input)->isTensor() &&
                            torch::jit::toIValue(input)->toTensor().dim() == 0;
      if (!scalar && !constant) {
        return false;
      }
      any = any || scalar;
    } else if (!is_plain_type(*input->type())) {
      return false;
    }
  }
  return any;
}

bool NodeRoles::can_be_inside(const Value* value) const {
  const Node* const producer = value->node();
  if (producer->kind() == prim::Param) {
    return is_tensor(value);
  }
  const auto found = roles_.find(producer);
  // Values of blocks that are still being visited.
  if (found == roles_.end()) {
    return producer->kind() == prim::Constant || is_tensor(value);
  }
  if (found->second == Role::kConstant || found->second == Role::kPlain) {
    return true;
  }
  return is_tensor(value) || (found->second == Role::kOperator && !is_plain_type(*value->type()));
}

bool NodeRoles::keeps_order(const Node* node) const {
  return node->hasSideEffects() || draws_random_numbers(node) || any_mutable(node) ||
         any_inside(node, [this](const Node* inner) { return keeps_order(inner); });
}

std::string NodeRoles::why_never_operator(const Node* node) {
  if (node->kind() == prim::If) {
    return "";
  }
  if (!node->blocks().empty()) {
    return "a loop whose number of rounds is not known beforehand";
  }
  if (node->kind() == prim::RaiseException) {
    return "raises an exception";
  }
  if (draws_random_numbers(node)) {
    return "draws random numbers";
  }
  if (is_schema_mutable(node)) {
    return "writes in place to a tensor or list that is seen elsewhere";
  }
  const bool unpacks = node->kind() == prim::ListUnpack && is_tensor_list(node->input());
  const bool unwraps = node->kind() == prim::unchecked_cast || node->kind() == aten::_unwrap_optional;
  if (node->hasSideEffects()) {
    return "has side effects";
  }
  if (!unpacks && !unwraps && (node->kind().is_prim() || node->maybeSchema() == nullptr)) {
    return "is part of the program, not an operator on tensors";
  }
  for (const Value* const output : node->outputs()) {
    if (!is_tensor(output) && !is_tensor_list(output) && !(unwraps && is_optional_tensor(output))) {
      return is_plain_type(*output->type()) ? "gives a number that is computed from a tensor's data"
                                            : "gives a " + output->type()->str();
    }
  }
  return "";
}

std::string NodeRoles::why_not_operator(const Node* node) const {
  if (node->kind() == prim::If) {
    return why_not_branch(node);
  }
  for (const Value* const input : node->inputs()) {
    if (!can_be_inside(input)) {
      return "its input " + name_of(input) + " is computed in PyTorch, and engines take tensors only";
    }
    if (is_resized(input)) {
      return "its input " + name_of(input) + " is given other sizes in place";
    }
  }
  return why_not_alias(node);
}

std::string NodeRoles::why_not_branch(const Node* node) const {
  const auto taken = taken_.find(index_.id_of(node));
  if (taken == taken_.end()) {
    return "a branch that was taken both ways, or never reached, with the test data";
  }
  if (any_mutable(node)) {
    return "a branch that writes in place";
  }
  if (is_tensor(node->input()) || !can_be_inside(node->input())) {
    return "a branch that depends on a tensor's data";
  }
  for (const Value* const value : needed_values(node)) {
    if (!can_be_inside(value)) {
      return "a branch that needs " + name_of(value) + ", which is computed in PyTorch";
    }
    if (is_resized(value)) {
      return "a branch that needs " + name_of(value) + ", which is given other sizes in place";
    }
  }
  for (const Node* const inner : node->blocks()[taken->second]->nodes()) {
    if (roles_.at(inner) == Role::kTorch) {
      return "a branch with " + std::string(inner->kind().toQualString()) + ", which " + reasons_.at(inner);
    }
  }
  for (const Value* const output : node->outputs()) {
    if (!is_tensor(output) && !is_optional_tensor(output) && !is_tensor_list(output)) {
      return "a branch that gives a " + output->type()->str();
    }
  }
  return why_not_alias(node);
}

std::string NodeRoles::why_not_alias(const Node* node) const {
  const std::vector<Value*> needed = needed_values(node);
  const torch::jit::FunctionSchema* const schema = node->maybeSchema();
  for (size_t index = 0; index < node->outputs().size(); ++index) {
    const Value* const output = node->output(index);
    // What an operator's schema calls fresh is fresh, though AliasDb may have lost track of it in a container.
    if (schema != nullptr && index < schema->returns().size() && schema->returns()[index].alias_info() == nullptr) {
      if (hides_alias(node) && (escaping_.count(output) != 0 || alias_db_.hasWriters(node))) {
        return "may be a view, of a tensor that is written to or that the caller gets";
      }
      continue;
    }
    const bool is_view = std::any_of(needed.begin(), needed.end(), [this, output](const Value* input) {
      return can_be_shared(*input->type()) && can_be_shared(*output->type()) &&
             alias_db_.mayContainAlias(const_cast<Value*>(input), const_cast<Value*>(output));
    });
    if (!is_view) {
      continue;
    }
    if (alias_db_.hasWriters(output)) {
      return "is a view of a tensor that is written to";
    }
    if (escaping_.count(output) == 0) {
      continue;
    }
    const auto shares = [this, output](Value* other) {
      return alias_db_.mayContainAlias(other, const_cast<Value*>(output));
    };
    const auto returned = std::count_if(returned_.begin(), returned_.end(), shares);
    if (returned > 0 && returned + std::count_if(given_.begin(), given_.end(), shares) > 1) {
      return "is a view that the caller gets, of a tensor that the caller has too";
    }
  }
  return "";
}

}  // namespace torch_trt_ext::passes
