#pragma once

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "passes/graph_index.h"

namespace torch_trt_ext::passes {

/// Numbers, strings, devices, None, and lists, tuples and Optionals of them: what no engine takes or gives.
bool is_plain_type(const c10::Type& type);

/// Tensor, or a subtype of it.
bool is_tensor(const torch::jit::Value* value);

/// Whether a node computes plain values from plain values and from what is known of tensors without their data (shape,
/// dtype, device). Blocks count; exceptions are allowed in them; writes are not. Such a node can be computed again.
bool is_plain_computation(const torch::jit::Node* node);

/// The values from outside that a node needs: its inputs and what its blocks capture.
std::vector<torch::jit::Value*> needed_values(const torch::jit::Node* node);

/// What partitioning may do with a node.
enum class Role {
  kConstant,  ///< copied wherever it is needed
  kPlain,     ///< stays, and is copied into a subgraph that needs it
  kOperator,  ///< can become part of an engine
  kTorch,     ///< stays in PyTorch
};

/// Which branch each `prim::If` took in every run so far, by node number: 0, 1, or absent if it varied.
using TakenBranches = std::unordered_map<size_t, size_t>;

/// Gives every node its role, by the graph alone: types, aliases, writes, side effects. Which operators an engine knows is
/// the caller's to say (`excluded`: node number → reason).
class NodeRoles {
 public:
  NodeRoles(const std::shared_ptr<torch::jit::Graph>& graph, const GraphIndex& index, const torch::jit::AliasDb& alias_db,
            std::unordered_map<size_t, std::string> excluded, TakenBranches taken);

  Role role(const torch::jit::Node* node) const { return roles_.at(node); }

  /// Why a node of role kTorch is not an operator for engines.
  const std::string& reason(const torch::jit::Node* node) const { return reasons_.at(node); }

  /// The branch of an `prim::If` of role kOperator that its engine holds.
  size_t taken_branch(const torch::jit::Node* node) const { return taken_.at(index_.id_of(node)); }

  /// Whether the value can be computed inside a subgraph: a tensor, a constant, or what is made of them by plain nodes.
  bool can_be_inside(const torch::jit::Value* value) const;

  /// Whether a change of order of this node against others of its kind could be noticed.
  bool keeps_order(const torch::jit::Node* node) const;

 private:
  void visit(torch::jit::Block* block);
  Role classify(torch::jit::Node* node);
  bool is_plain(const torch::jit::Node* node) const;
  bool is_scalar_tensor_computation(const torch::jit::Node* node) const;
  std::string why_not_operator(const torch::jit::Node* node) const;
  std::string why_not_branch(const torch::jit::Node* node) const;
  std::string why_not_alias(const torch::jit::Node* node) const;
  bool writes(const torch::jit::Node* node) const;

  std::shared_ptr<torch::jit::Graph> graph_;
  const GraphIndex& index_;
  const torch::jit::AliasDb& alias_db_;
  std::unordered_map<size_t, std::string> excluded_;
  TakenBranches taken_;
  std::vector<torch::jit::Value*> returned_;
  std::vector<torch::jit::Value*> given_;
  std::unordered_map<const torch::jit::Node*, Role> roles_;
  std::unordered_map<const torch::jit::Node*, std::string> reasons_;
};

/// Whether a plain value is made from a tensor's sizes (and not just from its rank, dtype or device), so that it can vary
/// with the shapes of the inputs.
bool depends_on_sizes(const torch::jit::Value* value);

}  // namespace torch_trt_ext::passes
