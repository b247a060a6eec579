#include "passes/inferred_facts.h"

#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "passes/graph_index.h"
#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Value;
namespace aten = c10::aten;
namespace prim = c10::prim;

using Kinds = std::unordered_set<Symbol>;

/// What gives the rank of its first input; all tensors that it takes are on one device, which is also the result's.
const Kinds& rank_keepers() {
  static const Kinds kinds = {
      aten::conv1d,
      aten::conv2d,
      aten::conv3d,
      aten::_convolution,
      aten::batch_norm,
      aten::layer_norm,
      aten::group_norm,
      aten::relu,
      aten::relu6,
      aten::leaky_relu,
      aten::gelu,
      aten::silu,
      aten::sigmoid,
      aten::hardswish,
      aten::hardsigmoid,
      aten::hardtanh,
      aten::tanh,
      aten::elu,
      aten::softmax,
      aten::exp,
      aten::sqrt,
      aten::neg,
      aten::clone,
      aten::contiguous,
      aten::detach,
      aten::transpose,
      aten::slice,
      aten::max_pool2d,
      aten::avg_pool2d,
      aten::roll,
      aten::flip,
      aten::split,
      aten::chunk,
      aten::log_softmax,
      aten::adaptive_avg_pool2d,
      aten::cat,
      aten::split_with_sizes,
  };
  return kinds;
}

/// What broadcasts its tensors; devices as above, but for single numbers on the CPU.
const Kinds& broadcasting() {
  static const Kinds kinds = {aten::add, aten::sub, aten::mul, aten::div, aten::maximum, aten::minimum};
  return kinds;
}

/// Other operators whose devices are as above.
const Kinds& other_device_keepers() {
  static const Kinds kinds = {aten::linear,  aten::matmul, aten::bmm,       aten::flatten, aten::view,
                              aten::reshape, aten::select, aten::unsqueeze, aten::permute};
  return kinds;
}

/// What gives its first input in the shape of the second one, which may be on any device.
const Kinds& shaped_as_second() {
  static const Kinds kinds = {aten::view_as, aten::reshape_as};
  return kinds;
}

bool is_any_of(const Node* node, const Kinds& kinds) {
  return kinds.count(node->kind()) != 0;
}

std::optional<at::Tensor> constant_tensor(const Value* value) {
  const auto constant = torch::jit::toIValue(value);
  if (!constant || !constant->isTensor() || !constant->toTensor().defined()) {
    return std::nullopt;
  }
  return constant->toTensor();
}

/// Whether a value is a list of tensors that nobody can add to or keep.
bool is_only_read(const Value* value) {
  return is_tensor_list(value) && std::all_of(value->uses().begin(), value->uses().end(), [](const auto& use) {
           return use.user->kind() == prim::ListUnpack || (use.user->kind().is_aten() && !any_mutable(use.user));
         });
}

/// Goes through a graph in program order and keeps one fact of each tensor of which it is known; lists have that of
/// all their tensors.
template <typename Fact>
class Inference {
 public:
  virtual ~Inference() = default;

  std::optional<Fact> of(const Value* value) const {
    const auto found = facts_.find(value);
    return found == facts_.end() ? this->of_source(value) : std::make_optional(found->second);
  }

  void visit(const Block* block) {
    for (const Node* const node : block->nodes()) {
      for (const Block* const inner : node->blocks()) {
        visit(inner);
      }
      for (const Value* const output : node->outputs()) {
        const auto fact = node->kind() == prim::If ? of_both(node, output->offset()) : of_node(node);
        if (fact && (is_tensor(output) || is_only_read(output))) {
          facts_.emplace(output, *fact);
        }
      }
    }
  }

 protected:
  /// The one fact of all these values.
  template <typename Range>
  std::optional<Fact> of_all(const Range& values) const {
    std::optional<Fact> common;
    for (const Value* const value : values) {
      const auto fact = of(value);
      if (!fact || (common && !same(*common, *fact))) {
        return std::nullopt;
      }
      common = common ? common : fact;
    }
    return common;
  }

 private:
  virtual std::optional<Fact> of_source(const Value* value) const = 0;
  virtual std::optional<Fact> of_operator(const Node* node) const = 0;
  virtual bool same(const Fact& one, const Fact& other) const { return one == other; }

  std::optional<Fact> of_both(const Node* branch, size_t output) const {
    return of_all(
        std::vector<const Value*>{branch->blocks()[0]->outputs()[output], branch->blocks()[1]->outputs()[output]});
  }

  std::optional<Fact> of_node(const Node* node) const {
    if (node->kind() == prim::ListConstruct || node->kind() == prim::ListUnpack ||
        node->kind() == prim::unchecked_cast) {
      return of_all(node->inputs());
    }
    const bool is_operator = node->kind().is_aten() && node->maybeSchema() != nullptr && !any_mutable(node);
    // Lists have operators of the same names.
    if (!is_operator || node->inputs().empty() || !(is_tensor(node->input(0)) || node->kind() == aten::cat)) {
      return std::nullopt;
    }
    return of_operator(node);
  }

  std::unordered_map<const Value*, Fact> facts_;
};

class Ranks : public Inference<int64_t> {
 private:
  std::optional<int64_t> of_source(const Value* value) const override {
    const auto tensor = constant_tensor(value);
    return tensor ? std::make_optional(tensor->dim()) : std::nullopt;
  }

  std::optional<int64_t> of_operator(const Node* node) const override {
    if (is_any_of(node, rank_keepers())) {
      return of(node->input(0));
    }
    if (is_any_of(node, broadcasting())) {
      return of_widest(node);
    }
    if (is_any_of(node, shaped_as_second())) {
      return of(node->input(1));
    }
    if (node->kind() == aten::view || node->kind() == aten::reshape || node->kind() == aten::permute) {
      return node->inputs().size() == 2 ? length_of_ints(node->input(1)) : std::nullopt;
    }
    const auto rank = of(node->input(0));
    if (node->kind() == aten::flatten) {
      return of_flattened(node, rank);
    }
    if (!rank) {
      return std::nullopt;
    }
    if (node->kind() == aten::linear) {
      return of(node->input(1)) == 2 ? rank : std::nullopt;
    }
    if (node->kind() == aten::matmul) {
      const auto other = of(node->input(1));
      return other && std::min(*rank, *other) >= 2 ? std::make_optional(std::max(*rank, *other)) : std::nullopt;
    }
    if (node->kind() == aten::select) {
      return *rank - 1;
    }
    return node->kind() == aten::unsqueeze ? std::make_optional(*rank + 1) : std::nullopt;
  }

  std::optional<int64_t> of_widest(const Node* node) const {
    int64_t widest = 0;
    for (const Value* const input : node->inputs()) {
      const auto rank = is_tensor(input) ? of(input) : std::make_optional<int64_t>(0);
      if (!rank) {
        return std::nullopt;
      }
      widest = std::max(widest, *rank);
    }
    return widest;
  }

  static std::optional<int64_t> of_flattened(const Node* node, std::optional<int64_t> rank) {
    const auto first = node->inputs().size() == 3 ? constant_int(node->input(1)) : std::nullopt;
    const auto last = node->inputs().size() == 3 ? constant_int(node->input(2)) : std::nullopt;
    if (!first || !last) {
      return std::nullopt;
    }
    // Of a single number too it makes one dimension.
    if (*first >= 0 && *last == -1) {
      return *first + 1;
    }
    if (!rank || *rank < 1) {
      return std::nullopt;
    }
    const auto wrapped = [&rank](int64_t dim) { return dim < 0 ? dim + *rank : dim; };
    return *rank - (wrapped(*last) - wrapped(*first));
  }
};

/// An input of the graph or a constant on whose device a tensor is.
class DeviceSources : public Inference<Value*> {
 private:
  std::optional<Value*> of_source(const Value* value) const override {
    // From anywhere in the graph only values of its outermost block can be read.
    const Node* const node = value->node();
    const bool is_source = constant_tensor(value) || (node->kind() == prim::Param && is_tensor(value));
    return is_source && node->owningBlock()->owningNode() == nullptr ? std::make_optional(const_cast<Value*>(value))
                                                                     : std::nullopt;
  }

  bool same(Value* const& one, Value* const& other) const override {
    const auto first = constant_tensor(one);
    const auto second = constant_tensor(other);
    return one == other || (first && second && first->device() == second->device());
  }

  std::optional<Value*> of_operator(const Node* node) const override {
    if (is_any_of(node, shaped_as_second())) {
      return of(node->input(0));
    }
    if (!is_any_of(node, rank_keepers()) && !is_any_of(node, broadcasting()) &&
        !is_any_of(node, other_device_keepers())) {
      return std::nullopt;
    }
    std::vector<const Value*> tensors;
    for (const Value* const input : node->inputs()) {
      if (!is_tensor(input) && !is_tensor_list(input)) {
        continue;
      }
      const auto tensor = constant_tensor(input);
      // Where the others were on another device than this one, the operator would have raised an error.
      if (tensor && tensor->dim() > 0) {
        return of(input);
      }
      if (!tensor || !tensor->device().is_cpu()) {
        tensors.push_back(input);
      }
    }
    return of_all(tensors);
  }
};

/// A constant on the device of another one that a node can read and that takes the least memory, since the model keeps
/// it beside the engines.
Value* smallest_like(Value* source, const Node* reader, const GraphIndex& index) {
  Value* smallest = source;
  for (Node* const node : index.nodes()) {
    const bool is_readable = node->owningBlock() == source->node()->owningBlock() && node->isBefore(reader);
    const auto found = is_readable && node->kind() == prim::Constant ? constant_tensor(node->output()) : std::nullopt;
    const at::Tensor best = *constant_tensor(smallest);
    if (found && found->device() == best.device() && found->nbytes() < best.nbytes()) {
      smallest = node->output();
    }
  }
  return smallest;
}

/// Whether something may change ranks or memory in place.
bool any_resizing(const GraphIndex& index) {
  return std::any_of(index.nodes().begin(), index.nodes().end(), writes_sizes);
}

}  // namespace

bool fold_known_ranks(const std::shared_ptr<Graph>& graph) {
  static const Symbol ndim = Symbol::fromQualString("prim::ndim");
  const GraphIndex index(*graph);
  if (any_resizing(index)) {
    return false;
  }
  Ranks ranks;
  ranks.visit(graph->block());
  bool changed = false;
  for (Node* const node : index.nodes()) {
    const bool asks = (node->kind() == aten::dim || node->kind() == ndim) && is_tensor(node->input(0));
    const auto rank = asks ? ranks.of(node->input(0)) : std::nullopt;
    if (rank) {
      const torch::jit::WithInsertPoint guard(node);
      node->output()->replaceAllUsesWith(graph->insertConstant(*rank));
      node->destroy();
      changed = true;
    }
  }
  return changed;
}

void read_devices_early(const std::shared_ptr<Graph>& graph) {
  const GraphIndex index(*graph);
  if (any_resizing(index)) {
    return;
  }
  DeviceSources sources;
  sources.visit(graph->block());
  for (Node* const node : index.nodes()) {
    const bool asks = node->kind() == prim::device && is_tensor(node->input(0));
    const auto source = asks ? sources.of(node->input(0)) : std::nullopt;
    if (source) {
      node->replaceInput(0, constant_tensor(*source) ? smallest_like(*source, node, index) : *source);
    }
  }
}

}  // namespace torch_trt_ext::passes
