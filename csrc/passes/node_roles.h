#pragma once

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "passes/graph_index.h"
#include "passes/node_facts.h"

namespace torch_trt_ext::passes {

/// What partitioning may do with a node.
enum class Role {
  kConstant,  ///< copied wherever it is needed
  kPlain,     ///< stays, and is copied into a subgraph that needs it
  kOperator,  ///< can become part of an engine
  kTorch,     ///< stays in PyTorch
};

/// Which branch each `prim::If` took in every run so far, by node number: 0, 1, or absent if it varied.
using TakenBranches = std::unordered_map<size_t, size_t>;

/// Gives every node its role, by the graph alone: types, aliases, writes, side effects. Which operators an engine knows
/// is the caller's to say (`excluded`: node number → reason).
class NodeRoles {
 public:
  NodeRoles(const std::shared_ptr<torch::jit::Graph>& graph, const GraphIndex& index,
            const torch::jit::AliasDb& alias_db, std::unordered_map<size_t, std::string> excluded, TakenBranches taken);

  Role role(const torch::jit::Node* node) const { return roles_.at(node); }

  /// Why a node of role kTorch is not an operator for engines.
  const std::string& reason(const torch::jit::Node* node) const { return reasons_.at(node); }

  /// The branch of an `prim::If` of role kOperator that its engine holds.
  size_t taken_branch(const torch::jit::Node* node) const { return taken_.at(index_.id_of(node)); }

  /// Whether a change of order of this node against others of its kind could be noticed.
  bool keeps_order(const torch::jit::Node* node) const;

  /// Whether the caller can see that the node ran: text, random numbers, writes to inputs or state. An exception that
  /// comes before it must come before it.
  bool has_effect(const torch::jit::Node* node) const;

  /// Whether one of the node's blocks raises an exception.
  static bool raises(const torch::jit::Node* node);

  /// Whether a plain node must run outside subgraphs too, since it may raise an exception that no engine raises.
  bool must_run(const torch::jit::Node* node) const { return must_run_.count(node) != 0; }

 private:
  /// Whether the value can be computed inside a subgraph: a tensor, a constant, or what is made of them by plain nodes.
  bool can_be_inside(const torch::jit::Value* value) const;
  void find_escaping();
  void find_must_run();
  bool may_raise(const torch::jit::Node* node) const;
  void visit(torch::jit::Block* block);
  Role classify(torch::jit::Node* node);
  bool is_plain(const torch::jit::Node* node) const;
  bool is_scalar_tensor_computation(const torch::jit::Node* node) const;
  bool reads_written(const torch::jit::Node* node) const;
  bool is_resized(const torch::jit::Value* value) const;
  static std::string why_never_operator(const torch::jit::Node* node);
  std::string why_not_operator(const torch::jit::Node* node) const;
  std::string why_not_branch(const torch::jit::Node* node) const;
  std::string why_not_alias(const torch::jit::Node* node) const;
  const GraphIndex& index_;
  const torch::jit::AliasDb& alias_db_;
  std::unordered_map<size_t, std::string> excluded_;
  TakenBranches taken_;
  std::vector<torch::jit::Value*> returned_;
  std::vector<torch::jit::Value*> given_;
  /// Nodes that write sizes, not only data.
  std::vector<torch::jit::Node*> resizers_;
  /// Values whose memory the caller may get.
  std::unordered_set<const torch::jit::Value*> escaping_;
  std::unordered_set<const torch::jit::Node*> must_run_;
  std::unordered_map<const torch::jit::Node*, Role> roles_;
  std::unordered_map<const torch::jit::Node*, std::string> reasons_;
};

}  // namespace torch_trt_ext::passes
