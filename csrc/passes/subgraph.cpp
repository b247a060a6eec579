#include "passes/subgraph.h"

#include <ATen/WrapDimUtils.h>
#include <c10/util/accumulate.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "passes/observation.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Value;
namespace prim = c10::prim;

/// Copies nodes of one graph into another, with all that they need.
class Copier {
 public:
  /// With `index`, branches are resolved and copies carry their origin. With `session` as well, what nodes take and
  /// give goes through rounding operators.
  Copier(const NodeRoles& roles, const GraphIndex* index, std::optional<int64_t> session = std::nullopt)
      : roles_(roles), index_(index), session_(session) {}

  std::shared_ptr<Graph> copy(const Subgraph& subgraph) {
    for (Value* const input : subgraph.inputs) {
      // Names of single letters and numbers only: the original's may clash with each other.
      copies_[input] = graph_->addInput()->setType(c10::TensorType::get());
    }
    for (Node* const node : subgraph.nodes) {
      copy_node(node);
    }
    std::vector<Value*> outputs;
    for (Value* const output : subgraph.outputs) {
      outputs.push_back(copies_.at(output));
    }
    if (outputs.size() == 1) {
      graph_->registerOutput(outputs[0]);
    } else {
      graph_->registerOutput(graph_->insertNode(graph_->createTuple(outputs))->output());
    }
    return graph_;
  }

  const std::unordered_map<Value*, Value*>& copies() const { return copies_; }

 private:
  Value* copy_of(Value* value) {
    const auto found = copies_.find(value);
    if (found != copies_.end()) {
      return found->second;
    }
    TORCH_INTERNAL_ASSERT(value->node()->kind() != prim::Param, "%", value->debugName(), " is not in the subgraph");
    copy_node(value->node());
    return copies_.at(value);
  }

  void copy_node(Node* node) {
    if (index_ != nullptr && node->kind() == prim::If && roles_.role(node) == Role::kOperator) {
      Block* const taken = node->blocks()[roles_.taken_branch(node)];
      for (Node* const inner : taken->nodes()) {
        if (copies_.count(inner->outputs().empty() ? nullptr : inner->output(0)) == 0) {
          copy_node(inner);
        }
      }
      for (size_t index = 0; index < node->outputs().size(); ++index) {
        copies_[node->output(index)] = copy_of(taken->outputs()[index]);
      }
      return;
    }
    for (Value* const needed : needed_values(node)) {
      copy_of(needed);
    }
    const bool rounds = session_.has_value() && node->kind() != prim::Constant;
    const auto input_of = [this, node, rounds](Value* value) {
      const auto place = value->node()->kind() == prim::Constant ? RoundedPlace::kConstant : RoundedPlace::kInput;
      return rounds && is_tensor(value) ? rounded(copy_of(value), node, place) : copy_of(value);
    };
    Node* const created = graph_->createClone(node, input_of);
    Node* const copy = graph_->insertNode(created);
    for (size_t index = 0; index < node->outputs().size(); ++index) {
      Value* const output = copy->output(index);
      output->setType(node->output(index)->type());
      copies_[node->output(index)] =
          rounds && is_tensor(output) ? rounded(output, node, RoundedPlace::kOutput) : output;
    }
    if (index_ != nullptr) {
      const auto scope = c10::make_intrusive<torch::jit::Scope>();
      copy->setScope(scope->push(Symbol::scope("Node::n" + std::to_string(index_->id_of(node)))));
    }
  }

  Value* rounded(Value* value, const Node* node, RoundedPlace place) {
    static const auto symbol = c10::Symbol::fromQualString("torch_trt_ext_passes::round");
    const std::vector<Value*> inputs = {value, graph_->insertConstant(*session_),
                                        graph_->insertConstant(static_cast<int64_t>(index_->id_of(node))),
                                        graph_->insertConstant(static_cast<int64_t>(place))};
    Node* const round = graph_->insertNode(graph_->create(symbol, inputs, 1));
    round->output()->setType(c10::TensorType::get());
    return round->output();
  }

  const NodeRoles& roles_;
  const GraphIndex* index_;
  std::optional<int64_t> session_;
  std::shared_ptr<Graph> graph_ = std::make_shared<Graph>();
  std::unordered_map<Value*, Value*> copies_;
};

/// The first nodes of a subgraph, with outputs that keep all of them alive.
Subgraph prefix(const Subgraph& subgraph, size_t node_count) {
  Subgraph part;
  part.inputs = subgraph.inputs;
  part.nodes.assign(subgraph.nodes.begin(), subgraph.nodes.begin() + static_cast<std::ptrdiff_t>(node_count));
  std::unordered_set<const Value*> used;
  for (const Node* const node : part.nodes) {
    for (const Value* const value : needed_values(node)) {
      used.insert(value);
    }
  }
  for (Node* const node : part.nodes) {
    for (Value* const output : node->outputs()) {
      if (is_tensor(output) && used.count(output) == 0) {
        part.outputs.push_back(output);
      }
    }
  }
  return part;
}

c10::TypePtr typed(const TensorFacts& facts, at::Device device) {
  std::vector<std::optional<int64_t>> sizes;
  bool is_static = true;
  for (const int64_t size : facts.shape) {
    sizes.push_back(size < 0 ? std::nullopt : std::make_optional(size));
    is_static = is_static && size >= 0;
  }
  if (is_static) {
    return c10::TensorType::createContiguous(facts.dtype, device, facts.shape);
  }
  return c10::TensorType::create(facts.dtype, device, c10::VaryingShape<int64_t>(sizes),
                                 c10::VaryingShape<int64_t>(facts.shape.size()), false);
}

/// Replaces what is asked of sizes that are the same at every call by numbers: flags made from them, and tensors that
/// are made of numbers alone, are constants then.
void fold_sizes(Graph& graph) {
  static const auto numel = c10::Symbol::fromQualString("aten::numel");
  std::unordered_set<const Value*> varying;
  // What was seen of values between them holds for the shapes of the test data only.
  for (const Value* const input : graph.inputs()) {
    if (!input->type()->expectRef<c10::TensorType>().sizes().isComplete()) {
      varying.insert(input);
    }
  }
  const std::vector<Node*> nodes(graph.nodes().begin(), graph.nodes().end());
  for (Node* const node : nodes) {
    const std::vector<Value*> needed = needed_values(node);
    const bool varies =
        sizes_depend_on_data(node) ||
        std::any_of(needed.begin(), needed.end(), [&](const Value* value) { return varying.count(value) != 0; });
    if (varies) {
      varying.insert(node->outputs().begin(), node->outputs().end());
      continue;
    }
    const bool asks = node->kind() == c10::aten::size || node->kind() == numel;
    const auto type = asks ? node->input(0)->type()->cast<c10::TensorType>() : nullptr;
    const auto sizes = type != nullptr ? type->sizes().concrete_sizes() : std::nullopt;
    if (!sizes) {
      continue;
    }
    const torch::jit::WithInsertPoint guard(node);
    if (node->kind() == numel) {
      node->output()->replaceAllUsesWith(graph.insertConstant(c10::multiply_integers(*sizes)));
    } else if (node->inputs().size() == 1) {
      node->output()->replaceAllUsesWith(graph.insertConstant(*sizes));
    } else if (const auto dim = constant_int(node->input(1)); dim && !sizes->empty()) {
      const auto place = at::maybe_wrap_dim(*dim, static_cast<int64_t>(sizes->size()));
      node->output()->replaceAllUsesWith(graph.insertConstant((*sizes)[static_cast<size_t>(place)]));
    }
  }
}

}  // namespace

std::shared_ptr<Graph> extract(const Subgraph& subgraph, const NodeRoles& roles) {
  return Copier(roles, nullptr).copy(subgraph);
}

std::shared_ptr<Graph> extract_for_engine(const Subgraph& subgraph, const NodeRoles& roles, const GraphIndex& index,
                                          const std::unordered_map<size_t, TensorFacts>& facts, at::Device device,
                                          size_t node_count) {
  Copier copier(roles, &index);
  const std::shared_ptr<Graph> graph =
      copier.copy(node_count < subgraph.nodes.size() ? prefix(subgraph, node_count) : subgraph);
  for (const auto& [original, copy] : copier.copies()) {
    const auto found = facts.find(index.id_of(original));
    if (found != facts.end() && is_tensor(copy)) {
      copy->setType(typed(found->second, device));
    }
  }
  fold_sizes(*graph);
  torch::jit::EliminateDeadCode(graph);
  return graph;
}

std::shared_ptr<Graph> extract_rounding(const Subgraph& subgraph, const NodeRoles& roles, const GraphIndex& index,
                                        int64_t session) {
  return Copier(roles, &index, session).copy(subgraph);
}

torch::jit::Module as_list_module(const std::shared_ptr<Graph>& graph, const std::string& name) {
  torch::jit::Module module("__torch__.torch_trt_ext_subgraphs." + name);
  const auto wrapper = std::make_shared<Graph>();
  wrapper->addInput("self")->setType(module.type());
  Value* const list = wrapper->addInput("inputs")->setType(c10::ListType::ofTensors());
  std::unordered_map<Value*, Value*> copies;
  Node* const unpack = wrapper->insertNode(wrapper->createListUnpack(list, graph->inputs().size()));
  for (size_t index = 0; index < graph->inputs().size(); ++index) {
    copies[graph->inputs()[index]] = unpack->output(index);
  }
  const auto copy_of = [&copies](Value* value) { return copies.at(value); };
  for (Node* const node : graph->nodes()) {
    Node* const copy = wrapper->insertNode(wrapper->createClone(node, copy_of));
    for (size_t index = 0; index < node->outputs().size(); ++index) {
      copies[node->output(index)] = copy->output(index);
    }
  }
  Value* const result = graph->outputs().at(0);
  std::vector<Value*> outputs;
  if (result->node()->kind() == prim::TupleConstruct) {
    for (Value* const element : result->node()->inputs()) {
      outputs.push_back(copy_of(element));
    }
  } else {
    outputs.push_back(copy_of(result));
  }
  wrapper->registerOutput(wrapper->insertNode(wrapper->createList(c10::TensorType::get(), outputs))->output());
  torch::jit::EliminateDeadCode(wrapper);
  const c10::QualifiedName method(*module.type()->name(), "forward");
  auto* const function = module._ivalue()->compilation_unit()->create_function(method, wrapper);
  module.type()->addMethod(function);
  return module;
}

}  // namespace torch_trt_ext::passes
