#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "passes/graph_index.h"
#include "passes/partition.h"
#include "passes/subgraph.h"

namespace torch_trt_ext::passes {

/// What Python is told about a node.
struct NodeInfo {
  size_t id = 0;
  std::string kind;
  /// `file:line`, or empty.
  std::string source;
  /// Path of the module it comes from, e.g. `backbone.layer1.0.conv1`, or empty.
  std::string module_path;
  /// Numbers of its values that are tensors.
  std::vector<size_t> inputs;
  std::vector<size_t> outputs;
  /// Shapes of its inputs that are constant tensors: weights.
  std::vector<std::vector<int64_t>> weights;
  /// For a branch: whether its condition is made from sizes, which vary with the input's shape.
  bool condition_on_sizes = false;
  /// For an operator that writes in place: the number of the tensor that it writes to.
  bool in_place = false;
  /// What find_magnitudes() says of its output, if it says anything and there is one.
  std::optional<int64_t> magnitude;
  /// What only_indexes() says of its output, if there is one.
  bool only_indexes = false;
};

/// A frozen model on its way: simplified, observed, divided, put together again. Numbers of nodes and values mean the
/// same until simplify() or functionalize() is called again.
class PreparedModel {
 public:
  /// Takes a model whose forward is inlined and whose weights are constants (torch.jit.freeze). It is not changed.
  explicit PreparedModel(const torch::jit::Module& module);

  /// Unrolls loops, follows lists, tuples and dicts, folds constants, drops what is dead.
  void simplify(size_t max_nodes);

  /// Replaces in-place operators by their ordinary forms where nobody can tell, for nodes of these numbers only.
  void functionalize(const std::unordered_set<size_t>& allowed);

  std::vector<NodeInfo> nodes() const;
  std::string graph_text() const { return graph_->toString(); }

  /// A module that runs the model and records all values and branches.
  torch::jit::Module observed(int64_t session) const;

  void divide(const std::unordered_map<size_t, std::string>& excluded, const TakenBranches& taken,
              size_t min_operators);

  size_t subgraph_count() const { return partition_.subgraphs.size(); }
  /// Node numbers, with those inside branches.
  std::vector<size_t> subgraph_nodes(size_t subgraph) const;
  std::vector<size_t> subgraph_inputs(size_t subgraph) const;
  std::vector<size_t> subgraph_outputs(size_t subgraph) const;
  size_t subgraph_operators(size_t subgraph) const { return partition_.subgraphs.at(subgraph).operators; }
  /// Why each operator outside the subgraphs stays in PyTorch.
  const std::unordered_map<size_t, std::string>& left() const { return partition_.left; }

  /// The subgraph as a module on lists of tensors.
  torch::jit::Module fallback(size_t subgraph) const;

  /// The same, rounding what set_rounding() of the session says.
  torch::jit::Module rounding(size_t subgraph, int64_t session) const;

  /// How many nodes the subgraph has, branches counted as one.
  size_t subgraph_length(size_t subgraph) const { return partition_.subgraphs.at(subgraph).nodes.size(); }
  /// The subgraph, or its first nodes, for a converter.
  std::shared_ptr<torch::jit::Graph> engine_graph(size_t subgraph, const std::unordered_map<size_t, TensorFacts>& facts,
                                                  at::Device device, size_t node_count) const;
  /// The number of one of its nodes.
  size_t subgraph_node(size_t subgraph, size_t position) const {
    return index_->id_of(partition_.subgraphs.at(subgraph).nodes.at(position));
  }
  /// Which of the subgraph's outputs the rest of the model needs the data of; of the others it needs the shape only.
  std::vector<bool> subgraph_outputs_with_data(size_t subgraph) const;

  /// The model with some subgraphs replaced by calls of `forward(List[Tensor]) -> List[Tensor]` of modules, which
  /// become its submodules under the given names. Shares no state with this object but engines.
  torch::jit::Module assembled(const std::map<size_t, std::pair<std::string, torch::jit::Module>>& replacements) const;

 private:
  torch::jit::Module with_graph(torch::jit::Module copy, const std::shared_ptr<torch::jit::Graph>& graph) const;
  torch::jit::Module copy_module() const;
  void renumber();

  torch::jit::Module module_;
  std::shared_ptr<torch::jit::Graph> graph_;
  std::unique_ptr<GraphIndex> index_;
  std::unique_ptr<Partitioner> partitioner_;
  Partition partition_;
};

}  // namespace torch_trt_ext::passes
