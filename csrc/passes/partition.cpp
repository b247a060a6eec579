#include "passes/partition.h"

#include <algorithm>
#include <unordered_set>

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Value;
using torch::jit::ValueSet;
namespace aten = c10::aten;
namespace prim = c10::prim;

bool is_trivial(const Node* node) {
  static const std::unordered_set<Symbol> kinds = {
      aten::view,
      aten::reshape,
      aten::permute,
      aten::transpose,
      aten::t,
      aten::flatten,
      aten::unsqueeze,
      aten::squeeze,
      aten::slice,
      aten::select,
      aten::expand,
      aten::expand_as,
      aten::contiguous,
      aten::to,
      aten::detach,
      aten::clone,
      aten::dropout,
      aten::chunk,
      aten::split,
      aten::unbind,
      aten::view_as,
      aten::alias,
      prim::unchecked_cast,
      prim::ListUnpack,
      aten::_unwrap_optional,
      aten::narrow,
      aten::movedim,
      aten::unflatten,
      aten::split_with_sizes,
      aten::swapaxes,
      aten::type_as,
      aten::feature_dropout,
  };
  if (node->kind() == prim::If) {
    return node->outputs().empty();
  }
  return kinds.count(node->kind()) != 0;
}

/// What a node writes to, by its schema.
struct Targets {
  /// Tensors, and lists whose tensors are written to.
  std::vector<Value*> tensors;
  /// Lists and dicts.
  std::vector<Value*> containers;
};

/// Finds it, inner blocks included.
void find_targets(const Node* node, Targets& targets) {
  if (const torch::jit::FunctionSchema* const schema = node->maybeSchema()) {
    for (size_t index = 0; index < node->inputs().size() && index < schema->arguments().size(); ++index) {
      const c10::Argument& argument = schema->arguments()[index];
      if (argument.alias_info() == nullptr || !argument.alias_info()->isWrite()) {
        continue;
      }
      auto* const value = const_cast<Value*>(node->input(index));
      const bool writes_container = !is_tensor(value) && argument.type()->hasFreeVariables();
      (writes_container ? targets.containers : targets.tensors).push_back(value);
    }
  }
  for (const Block* const block : node->blocks()) {
    for (const Node* const inner : block->nodes()) {
      find_targets(inner, targets);
    }
  }
}

bool can_contain(const c10::Type& container, const c10::Type& element) {
  return std::any_of(container.containedTypes().begin(), container.containedTypes().end(),
                     [&element](const c10::TypePtr& type) { return *type == element || can_contain(*type, element); });
}

/// Everything a node touches, inner blocks included.
void touched(const Node* node, ValueSet& values) {
  for (const Value* const input : node->inputs()) {
    values.insert(input);
  }
  for (const Value* const output : node->outputs()) {
    values.insert(output);
  }
  for (const Block* const block : node->blocks()) {
    for (const Value* const output : block->outputs()) {
      values.insert(output);
    }
    for (const Node* const inner : block->nodes()) {
      touched(inner, values);
    }
  }
}

}  // namespace

Partitioner::Partitioner(std::shared_ptr<Graph> graph, const GraphIndex& index,
                         std::unordered_map<size_t, std::string> excluded, TakenBranches taken, size_t min_operators)
    : graph_(std::move(graph)),
      index_(index),
      alias_db_(graph_),
      excluded_(std::move(excluded)),
      taken_(std::move(taken)),
      min_operators_(min_operators) {}

Partition Partitioner::run() {
  // Each round excludes at least one more node, so this ends.
  while (true) {
    roles_ = std::make_unique<NodeRoles>(graph_, index_, alias_db_, excluded_, taken_);
    Partition partition = divide();
    if (!evict(partition)) {
      for (Node* const node : index_.nodes()) {
        if (roles_->role(node) == Role::kTorch) {
          partition.left[index_.id_of(node)] = roles_->reason(node);
        }
      }
      return partition;
    }
  }
}

Partition Partitioner::divide() {
  Partition partition;
  divide_block(graph_->block(), partition);
  for (Subgraph& subgraph : partition.subgraphs) {
    find_inputs(subgraph);
  }
  find_outputs(partition);
  return partition;
}

std::vector<std::vector<size_t>> Partitioner::find_dependencies(const std::vector<Node*>& nodes) const {
  std::unordered_map<const Node*, size_t> position;
  std::vector<ValueSet> values(nodes.size());
  std::vector<size_t> writers;
  ValueSet all;
  for (size_t index = 0; index < nodes.size(); ++index) {
    position[nodes[index]] = index;
    touched(nodes[index], values[index]);
    all.insert(values[index].begin(), values[index].end());
  }
  for (size_t index = 0; index < nodes.size(); ++index) {
    if (alias_db_.writesToAlias(nodes[index], all)) {
      writers.push_back(index);
    }
  }
  std::vector<std::vector<size_t>> before(nodes.size());
  size_t last_in_order = nodes.size();
  size_t last_effect = nodes.size();
  std::vector<size_t> checks;
  for (size_t index = 0; index < nodes.size(); ++index) {
    for (const Value* const value : needed_values(nodes[index])) {
      const auto found = position.find(value->node());
      if (found != position.end()) {
        before[index].push_back(found->second);
      }
    }
    if (roles_->role(nodes[index]) == Role::kTorch && roles_->keeps_order(nodes[index])) {
      if (last_in_order != nodes.size()) {
        before[index].push_back(last_in_order);
      }
      last_in_order = index;
    }
    // Checks inside engines are not in that order among themselves, but what the caller sees stays on its side of them.
    if (roles_->role(nodes[index]) != Role::kTorch && NodeRoles::raises(nodes[index])) {
      if (last_effect != nodes.size()) {
        before[index].push_back(last_effect);
      }
      checks.push_back(index);
    } else if (roles_->has_effect(nodes[index])) {
      before[index].insert(before[index].end(), checks.begin(), checks.end());
      checks.clear();
      last_effect = index;
    }
  }
  for (const size_t writer : writers) {
    Targets targets;
    find_targets(nodes[writer], targets);
    // AliasDb's writesToAlias() does not look into containers.
    const auto reaches = [&](const Value* value) {
      auto* const read = const_cast<Value*>(value);
      return std::any_of(targets.tensors.begin(), targets.tensors.end(),
                         [&](Value* target) {
                           return (!is_tensor(read) || !is_tensor(target)) && alias_db_.mayContainAlias(read, target);
                         }) ||
             std::any_of(targets.containers.begin(), targets.containers.end(), [&](Value* target) {
               return can_contain(*read->type(), *target->type()) && alias_db_.mayContainAlias(read, target);
             });
    };
    for (size_t index = 0; index < nodes.size(); ++index) {
      if (index != writer && (alias_db_.writesToAlias(nodes[writer], values[index]) ||
                              std::any_of(values[index].begin(), values[index].end(), reaches))) {
        before[std::max(index, writer)].push_back(std::min(index, writer));
      }
    }
  }
  return before;
}

void Partitioner::divide_block(Block* block, Partition& partition) const {
  const std::vector<Node*> nodes(block->nodes().begin(), block->nodes().end());
  const std::vector<std::vector<size_t>> before = find_dependencies(nodes);
  std::vector<bool> done(nodes.size(), false);
  std::vector<ScheduleEntry> schedule;
  size_t waiting = nodes.size();
  bool engines_turn = false;
  while (waiting > 0) {
    Subgraph subgraph;
    std::vector<Node*> plain;
    // One pass in program order takes all that can be taken, since dependencies point backwards.
    for (size_t index = 0; index < nodes.size(); ++index) {
      Node* const node = nodes[index];
      const Role role = roles_->role(node);
      const bool is_free = role == Role::kConstant || (role == Role::kPlain && !roles_->must_run(node));
      const bool takes = is_free || (role == Role::kOperator) == engines_turn;
      if (done[index] || !takes ||
          !std::all_of(before[index].begin(), before[index].end(), [&done](size_t other) { return done[other]; })) {
        continue;
      }
      done[index] = true;
      --waiting;
      if (role == Role::kOperator) {
        subgraph.nodes.push_back(node);
        subgraph.with_plain_nodes.push_back(node);
        subgraph.operators += is_trivial(node) ? 0 : 1;
      } else if (engines_turn) {
        plain.push_back(node);
        subgraph.with_plain_nodes.push_back(node);
      } else {
        schedule.push_back({node, 0});
        if (role == Role::kTorch) {
          for (Block* const inner : node->blocks()) {
            divide_block(inner, partition);
          }
        }
      }
    }
    if (!subgraph.nodes.empty()) {
      schedule.push_back({nullptr, partition.subgraphs.size()});
      partition.subgraphs.push_back(std::move(subgraph));
    } else {
      for (Node* const node : plain) {
        schedule.push_back({node, 0});
      }
    }
    engines_turn = !engines_turn;
  }
  partition.schedules.emplace_back(block, std::move(schedule));
}

void Partitioner::find_inputs(Subgraph& subgraph) const {
  const std::unordered_set<const Node*> members(subgraph.nodes.begin(), subgraph.nodes.end());
  std::unordered_set<const Value*> seen;
  std::vector<Value*> waiting;
  for (const Node* const node : subgraph.nodes) {
    std::vector<Value*> needed = needed_values(node);
    waiting.assign(needed.rbegin(), needed.rend());
    while (!waiting.empty()) {
      Value* const value = waiting.back();
      waiting.pop_back();
      if (!seen.insert(value).second || members.count(value->node()) != 0) {
        continue;
      }
      const bool is_param = value->node()->kind() == prim::Param;
      const Role role = is_param ? Role::kTorch : roles_->role(value->node());
      if (role == Role::kPlain) {
        const std::vector<Value*> deeper = needed_values(value->node());
        waiting.insert(waiting.end(), deeper.rbegin(), deeper.rend());
      } else if (role != Role::kConstant) {
        subgraph.inputs.push_back(value);
      }
    }
  }
}

void Partitioner::find_outputs(Partition& partition) const {
  std::unordered_map<const Node*, size_t> owner;
  for (size_t index = 0; index < partition.subgraphs.size(); ++index) {
    for (const Node* const node : partition.subgraphs[index].nodes) {
      owner[node] = index;
    }
  }
  std::unordered_set<const Value*> wanted;
  std::unordered_set<const Value*> with_data;
  for (const Subgraph& subgraph : partition.subgraphs) {
    wanted.insert(subgraph.inputs.begin(), subgraph.inputs.end());
    with_data.insert(subgraph.inputs.begin(), subgraph.inputs.end());
  }
  // Plain nodes are computed again inside subgraphs; outside they live only as long as something there needs them.
  std::vector<const Value*> waiting;
  for (const auto& [block, schedule] : partition.schedules) {
    waiting.insert(waiting.end(), block->outputs().begin(), block->outputs().end());
    with_data.insert(block->outputs().begin(), block->outputs().end());
    for (const ScheduleEntry& entry : schedule) {
      if (entry.node != nullptr && (roles_->role(entry.node) == Role::kTorch || roles_->must_run(entry.node))) {
        const std::vector<Value*> needed = needed_values(entry.node);
        waiting.insert(waiting.end(), needed.begin(), needed.end());
        if (roles_->role(entry.node) == Role::kTorch) {
          with_data.insert(needed.begin(), needed.end());
        }
      }
    }
  }
  while (!waiting.empty()) {
    const Value* const value = waiting.back();
    waiting.pop_back();
    if (!wanted.insert(value).second || value->node()->kind() == prim::Param) {
      continue;
    }
    if (roles_->role(value->node()) == Role::kPlain) {
      const std::vector<Value*> needed = needed_values(value->node());
      waiting.insert(waiting.end(), needed.begin(), needed.end());
      // Of tensors, plain nodes read what is known without data; lists of them pass on the tensors.
      if (!is_plain_computation(value->node())) {
        with_data.insert(needed.begin(), needed.end());
      }
    }
  }
  for (Subgraph& subgraph : partition.subgraphs) {
    for (Node* const node : subgraph.nodes) {
      for (Value* const output : node->outputs()) {
        if (wanted.count(output) != 0) {
          subgraph.outputs.push_back(output);
          subgraph.outputs_with_data.push_back(with_data.count(output) != 0);
        }
      }
    }
  }
}

bool Partitioner::evict(Partition& partition) {
  bool evicted = false;
  const auto exclude = [this, &evicted](const Node* node, const std::string& reason) {
    evicted = excluded_.emplace(index_.id_of(node), reason).second || evicted;
  };
  for (const Subgraph& subgraph : partition.subgraphs) {
    for (const Value* const output : subgraph.outputs) {
      if (!is_tensor(output)) {
        exclude(output->node(), "gives a " + output->type()->str() + " to code outside, and engines give tensors only");
      }
    }
    for (const Value* const input : subgraph.inputs) {
      if (!is_tensor(input)) {
        for (const Node* const node : subgraph.nodes) {
          const std::vector<Value*> needed = needed_values(node);
          if (std::find(needed.begin(), needed.end(), input) != needed.end()) {
            exclude(node, "takes a " + input->type()->str() + " from code outside, and engines take tensors only");
          }
        }
      }
    }
  }
  if (evicted) {
    return true;
  }
  for (const Subgraph& subgraph : partition.subgraphs) {
    if (subgraph.operators < min_operators_) {
      for (const Node* const node : subgraph.nodes) {
        exclude(node, "its subgraph has " + std::to_string(subgraph.operators) +
                          " operators, fewer than min_block_size " + std::to_string(min_operators_));
      }
    }
  }
  return evicted;
}

}  // namespace torch_trt_ext::passes
