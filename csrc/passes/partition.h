#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "passes/graph_index.h"
#include "passes/node_roles.h"

namespace torch_trt_ext::passes {

/// Operators of one block that become one engine.
struct Subgraph {
  /// In an order in which they can run.
  std::vector<torch::jit::Node*> nodes;
  /// These and the plain nodes that can run when they do, in program order.
  std::vector<torch::jit::Node*> with_plain_nodes;
  /// Tensors from outside, plain values not: those are computed again inside.
  std::vector<torch::jit::Value*> inputs;
  /// Tensors that are used outside, each once.
  std::vector<torch::jit::Value*> outputs;
  /// For each output, whether its data is used, or only its shape, dtype and device.
  std::vector<bool> outputs_with_data;
  /// How many of the nodes do more than look at data in another way.
  size_t operators = 0;
};

/// One entry of a block's new order: a node that stays, or a whole subgraph with the plain nodes beside it.
struct ScheduleEntry {
  torch::jit::Node* node = nullptr;
  size_t subgraph = 0;
};

struct Partition {
  std::vector<Subgraph> subgraphs;
  /// The new order of each block that was partitioned.
  std::vector<std::pair<torch::jit::Block*, std::vector<ScheduleEntry>>> schedules;
  /// Why each operator that no subgraph took stays in PyTorch, by node number.
  std::unordered_map<size_t, std::string> left;
};

/// Divides each block into as few subgraphs as its dependencies allow.
///
/// A block is scheduled in turns: first everything that can run without an engine, then every operator that can run by
/// then (one subgraph), and so on. No order needs fewer turns, since each turn takes all there is. Dependencies are
/// data, writes (AliasDb), and the order of side effects, random numbers, exceptions and writes among themselves.
class Partitioner {
 public:
  Partitioner(std::shared_ptr<torch::jit::Graph> graph, const GraphIndex& index,
              std::unordered_map<size_t, std::string> excluded, TakenBranches taken, size_t min_operators);

  Partition run();

  const NodeRoles& roles() const { return *roles_; }

 private:
  Partition divide();
  void divide_block(torch::jit::Block* block, Partition& partition) const;
  std::vector<std::vector<size_t>> find_dependencies(const std::vector<torch::jit::Node*>& nodes) const;
  void find_inputs(Subgraph& subgraph) const;
  void find_outputs(Partition& partition) const;
  bool evict(Partition& partition);

  std::shared_ptr<torch::jit::Graph> graph_;
  const GraphIndex& index_;
  torch::jit::AliasDb alias_db_;
  std::unordered_map<size_t, std::string> excluded_;
  TakenBranches taken_;
  size_t min_operators_;
  std::unique_ptr<NodeRoles> roles_;
};

}  // namespace torch_trt_ext::passes
