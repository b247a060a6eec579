#include "passes/prepared_model.h"

#include <ATen/Functions.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/common_subexpression_elimination.h>
#include <torch/csrc/jit/passes/constant_pooling.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/lower_tuples.h>
#include <torch/csrc/jit/passes/peephole.h>
#include <torch/csrc/jit/passes/remove_mutation.h>

#include <algorithm>
#include <utility>

#include "passes/attributes.h"
#include "passes/branch_outputs.h"
#include "passes/containers.h"
#include "passes/hidden_aliases.h"
#include "passes/index_uses.h"
#include "passes/inferred_facts.h"
#include "passes/list_parts.h"
#include "passes/magnitudes.h"
#include "passes/node_roles.h"
#include "passes/number_writes.h"
#include "passes/observation.h"
#include "passes/unroll.h"
#include "passes/view_writes.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;
namespace prim = c10::prim;

/// Rounds of simplification: each may uncover work for the others, such as a loop over a list that has become plain.
constexpr size_t kMaxRounds = 16;

std::string source_of(const Node* node) {
  // Of a model that was saved, the Python that its saved code was made from.
  const auto original = node->sourceRange().findSourceRangeThatGenerated();
  if (const auto place = (original ? *original : node->sourceRange()).file_line_col()) {
    return std::get<0>(*place) + ":" + std::to_string(std::get<1>(*place));
  }
  return "";
}

std::string module_path_of(const Node* node) {
  std::string path;
  if (const auto callstack = node->callstack()) {
    for (const auto& entry : (*callstack)->vec()) {
      if (const auto& instance = std::get<2>(entry)) {
        const std::string name = instance->instance_name();
        if (!name.empty() && name != "self" && name != "INSTANCE_NAME_UNKNOWN" && name != "SELF") {
          path += (path.empty() ? "" : ".") + name;
        }
      }
    }
  }
  if (path.empty()) {
    // Traces: `__module.backbone/__module.backbone.conv1`.
    const std::string scope = node->scopeName();
    const std::string last = scope.substr(scope.rfind('/') == std::string::npos ? 0 : scope.rfind('/') + 1);
    const std::string prefix = "__module.";
    const size_t at = last.find(prefix);
    path = at == std::string::npos ? "" : last.substr(at + prefix.size());
  }
  return path;
}

void collect_nodes(Node* node, std::vector<Node*>& nodes) {
  nodes.push_back(node);
  for (Block* const block : node->blocks()) {
    for (Node* const inner : block->nodes()) {
      collect_nodes(inner, nodes);
    }
  }
}

/// Attributes are found by their object's type, which the copy of a module has anew.
void retype_attributes(Block* block) {
  for (Node* const node : block->nodes()) {
    if (node->kind() == prim::GetAttr) {
      node->output()->setType(
          node->input()->type()->expectRef<c10::ClassType>().getAttribute(node->s(c10::attr::name)));
    }
    for (Block* const inner : node->blocks()) {
      retype_attributes(inner);
    }
  }
}

/// Destroys those of the nodes that nobody uses, or only others of them that go. Dead code elimination would keep
/// checks that raise.
void destroy_unused(std::vector<Node*> nodes) {
  for (bool destroyed = true; destroyed;) {
    destroyed = false;
    for (Node*& node : nodes) {
      if (node != nullptr && !node->hasUses()) {
        node->destroy();
        node = nullptr;
        destroyed = true;
      }
    }
  }
}

bool is_script_object(const c10::IValue& value) {
  return value.isObject() && !value.toObjectRef().type()->is_module();
}

/// Fills the clone of a module with copies of what a run can write to. What shares memory or is one object in the
/// original does so in the clone: tensors and views of them, and submodules with two names, of which torch's clone
/// makes two.
class AttributeCopier {
 public:
  void copy(const Module& original, Module& clone) {
    modules_.emplace(original._ivalue().get(), clone._ivalue());
    for (const auto& attribute : original.named_attributes(/*recurse=*/false)) {
      if (is_script_object(attribute.value)) {
        continue;
      }
      if (attribute.value.isModule()) {
        copy_submodule(attribute.name, attribute.value.toModule(), clone);
      } else if (attribute.value.isTensor() && attribute.value.toTensor().has_storage()) {
        clone.setattr(attribute.name, copy_tensor(attribute.value.toTensor()));
      } else {
        clone.setattr(attribute.name, attribute.value.deepcopy(values_));
      }
    }
  }

 private:
  void copy_submodule(const std::string& name, const Module& original, Module& parent_clone) {
    const auto found = modules_.find(original._ivalue().get());
    if (found != modules_.end()) {
      parent_clone.setattr(name, found->second);
      return;
    }
    Module clone = parent_clone.attr(name).toModule();
    copy(original, clone);
  }

  const at::Tensor& copy_tensor(const at::Tensor& original) {
    at::Tensor& copy = tensors_[original.unsafeGetTensorImpl()];
    if (!copy.defined()) {
      at::Storage& storage = storages_[original.storage().unsafeGetStorageImpl()];
      if (!storage) {
        const auto bytes = at::TensorOptions().dtype(at::kByte).device(original.device());
        storage = at::empty({0}, bytes).set_(original.storage()).clone().storage();
      }
      copy = at::empty({0}, original.options().requires_grad(false))
                 .set_(storage, original.storage_offset(), original.sizes(), original.strides())
                 .set_requires_grad(original.requires_grad());
    }
    return copy;
  }

  std::unordered_map<const void*, c10::IValue> modules_;
  std::unordered_map<const void*, at::Tensor> tensors_;
  std::unordered_map<const void*, at::Storage> storages_;
  c10::IValue::HashIdentityIValueMap values_;
};

/// A name that no attribute of the module has.
std::string free_name(const Module& module, std::string name) {
  while (module.hasattr(name)) {
    name += "_";
  }
  return name;
}

}  // namespace

PreparedModel::PreparedModel(const Module& module)
    : module_(module), graph_(module.get_method("forward").graph()->copy()) {
  renumber();
}

void PreparedModel::renumber() {
  partitioner_.reset();
  partition_ = {};
  index_ = std::make_unique<GraphIndex>(*graph_);
}

void PreparedModel::simplify(size_t max_nodes) {
  torch::jit::Inline(*graph_);
  resolve_hidden_aliases(graph_);
  size_t node_count = 0;
  for (size_t round = 0; round < kMaxRounds; ++round) {
    torch::jit::LowerSimpleTuples(graph_);
    torch::jit::ConstantPropagation(graph_);
    torch::jit::PeepholeOptimize(graph_, /*disable_shape_peepholes=*/true);
    torch::jit::ConstantPropagation(graph_);
    resolve_hidden_aliases(graph_);
    bool changed = forward_attributes(graph_);
    changed = forward_containers(graph_) || changed;
    changed = fold_known_ranks(graph_) || changed;
    changed = unroll_loops(graph_, max_nodes) || changed;
    changed = flatten_branch_tuples(graph_) || changed;
    changed = read_list_parts(graph_) || changed;
    changed = functionalize_number_writes(graph_) || changed;
    torch::jit::LowerSimpleTuples(graph_);
    changed = split_plain_branch_outputs(graph_) || changed;
    torch::jit::EliminateDeadCode(graph_);
    // Torch's passes do not say whether they changed anything.
    const size_t node_count_before = std::exchange(node_count, GraphIndex(*graph_).nodes().size());
    if (!changed && node_count == node_count_before) {
      break;
    }
  }
  read_devices_early(graph_);
  torch::jit::EliminateCommonSubexpression(graph_);
  torch::jit::EliminateDeadCode(graph_);
  torch::jit::ConstantPooling(graph_);
  renumber();
}

void PreparedModel::functionalize(const std::unordered_set<size_t>& allowed) {
  std::unordered_set<const Node*> nodes;
  for (const size_t id : allowed) {
    nodes.insert(index_->nodes().at(id));
  }
  const auto may_replace = [&nodes](Node* node) {
    // A constant lives on after the call. AliasDb does not know what hidden views are views of. An ordinary form may
    // draw other random numbers.
    return nodes.count(node) != 0 && !node->inputs().empty() && node->input(0)->node()->kind() != prim::Constant &&
           !hides_alias(node->input(0)->node()) && !draws_random_numbers(node);
  };
  // What a write to a view becomes is a new tensor, whose own writes torch's pass may replace.
  do {
    torch::jit::RemoveTensorMutation(graph_, may_replace);
  } while (functionalize_view_writes(graph_, may_replace));
  torch::jit::EliminateDeadCode(graph_);
  renumber();
}

std::vector<NodeInfo> PreparedModel::nodes() const {
  std::vector<NodeInfo> infos;
  const auto magnitudes = find_magnitudes(*index_, torch::jit::AliasDb(graph_));
  for (Node* const node : index_->nodes()) {
    NodeInfo info;
    info.id = infos.size();
    info.kind = node->kind().toQualString();
    info.source = source_of(node);
    info.module_path = module_path_of(node);
    for (const Value* const input : node->inputs()) {
      if (is_tensor(input)) {
        info.inputs.push_back(index_->id_of(input));
        const auto constant = torch::jit::toIValue(input);
        if (constant && constant->isTensor()) {
          info.weights.push_back(constant->toTensor().sizes().vec());
        }
      }
    }
    for (const Value* const output : node->outputs()) {
      if (is_tensor(output)) {
        info.outputs.push_back(index_->id_of(output));
      }
    }
    info.condition_on_sizes = node->kind() == prim::If && depends_on_sizes(node->input());
    info.in_place = is_schema_mutable(node) && !info.inputs.empty() && is_tensor(node->input(0));
    const auto magnitude = magnitudes.find(node->outputs().size() == 1 ? node->output() : nullptr);
    if (magnitude != magnitudes.end()) {
      info.magnitude = magnitude->second;
    }
    info.only_indexes = node->outputs().size() == 1 && only_indexes(node->output());
    infos.push_back(std::move(info));
  }
  return infos;
}

Module PreparedModel::copy_module() const {
  // In place: submodules are new objects, what they hold is shared. Engines stay shared, since a copy would load its
  // plan again; everything that a run can write to is copied here, once, whatever names it has.
  Module copy = module_.clone(/*inplace=*/true);
  AttributeCopier().copy(module_, copy);
  return copy;
}

Module PreparedModel::with_graph(Module copy, const std::shared_ptr<Graph>& graph) const {
  const c10::ClassTypePtr type = copy.type();
  graph->inputs()[0]->setType(type);
  retype_attributes(graph->block());
  const auto& old_schema = module_.get_method("forward").function().getSchema();
  std::vector<c10::Argument> arguments = old_schema.arguments();
  arguments[0] = arguments[0].cloneWithType(type);
  const c10::QualifiedName name = type->getMethod("forward").qualname();
  const auto unit = copy._ivalue()->compilation_unit();
  type->unsafeRemoveMethod("forward");
  unit->unsafeRemoveMethod(name);
  auto* const function = unit->create_function(name, graph);
  function->setSchema(old_schema.cloneWithArguments(arguments));
  type->addMethod(function);
  return copy;
}

Module PreparedModel::observed(int64_t session) const {
  const std::shared_ptr<Graph> graph = graph_->copy();
  instrument(graph, session);
  return with_graph(copy_module(), graph);
}

void PreparedModel::divide(const std::unordered_map<size_t, std::string>& excluded, const TakenBranches& taken,
                           size_t min_operators) {
  partitioner_ = std::make_unique<Partitioner>(graph_, *index_, excluded, taken, min_operators);
  partition_ = partitioner_->run();
}

std::vector<size_t> PreparedModel::subgraph_nodes(size_t subgraph) const {
  std::vector<size_t> ids;
  for (Node* const node : partition_.subgraphs.at(subgraph).nodes) {
    std::vector<Node*> nodes;
    collect_nodes(node, nodes);
    for (const Node* const inner : nodes) {
      ids.push_back(index_->id_of(inner));
    }
  }
  return ids;
}

std::vector<size_t> PreparedModel::subgraph_inputs(size_t subgraph) const {
  std::vector<size_t> ids;
  for (const Value* const value : partition_.subgraphs.at(subgraph).inputs) {
    ids.push_back(index_->id_of(value));
  }
  return ids;
}

std::vector<size_t> PreparedModel::subgraph_outputs(size_t subgraph) const {
  std::vector<size_t> ids;
  for (const Value* const value : partition_.subgraphs.at(subgraph).outputs) {
    ids.push_back(index_->id_of(value));
  }
  return ids;
}

std::vector<bool> PreparedModel::subgraph_outputs_with_data(size_t subgraph) const {
  return partition_.subgraphs.at(subgraph).outputs_with_data;
}

Module PreparedModel::fallback(size_t subgraph) const {
  const Subgraph& part = partition_.subgraphs.at(subgraph);
  return as_list_module(extract(part, partitioner_->roles()), "Subgraph" + std::to_string(subgraph));
}

Module PreparedModel::rounding(size_t subgraph, int64_t session) const {
  const Subgraph& part = partition_.subgraphs.at(subgraph);
  return as_list_module(extract_rounding(part, partitioner_->roles(), *index_, session),
                        "Rounding" + std::to_string(subgraph));
}

std::shared_ptr<Graph> PreparedModel::engine_graph(size_t subgraph,
                                                   const std::unordered_map<size_t, TensorFacts>& facts,
                                                   at::Device device, size_t node_count) const {
  return extract_for_engine(partition_.subgraphs.at(subgraph), partitioner_->roles(), *index_, facts, device,
                            node_count);
}

Module PreparedModel::assembled(const std::map<size_t, std::pair<std::string, Module>>& replacements) const {
  Module copy = copy_module();
  const std::shared_ptr<Graph> graph = graph_->copy();
  const GraphIndex index(*graph);
  const auto twin_node = [&](const Node* node) { return index.nodes()[index_->id_of(node)]; };
  const auto twin_value = [&](const Value* value) { return index.values()[index_->id_of(value)]; };
  graph->inputs()[0]->setType(copy.type());
  std::vector<Node*> replaced;
  // What engines give in place of a value.
  std::unordered_map<const Value*, Value*> given;
  for (const auto& [block, schedule] : partition_.schedules) {
    Block* const twin_block =
        block->owningNode() == nullptr
            ? graph->block()
            : twin_node(block->owningNode())
                  ->blocks()[static_cast<size_t>(
                      std::find(block->owningNode()->blocks().begin(), block->owningNode()->blocks().end(), block) -
                      block->owningNode()->blocks().begin())];
    const auto append = [&](const Node* node) {
      twin_node(node)->moveBefore(twin_block->return_node());
      // Subgraphs hold copies of the plain nodes they need.
      if (partitioner_->roles().role(node) == Role::kPlain && !partitioner_->roles().must_run(node)) {
        replaced.push_back(twin_node(node));
      }
    };
    for (const ScheduleEntry& entry : schedule) {
      if (entry.node != nullptr) {
        append(entry.node);
        continue;
      }
      const Subgraph& subgraph = partition_.subgraphs[entry.subgraph];
      const auto replacement = replacements.find(entry.subgraph);
      if (replacement == replacements.end()) {
        for (const Node* const node : subgraph.with_plain_nodes) {
          append(node);
        }
        continue;
      }
      const auto& [wanted_name, module] = replacement->second;
      const std::string name = free_name(copy, wanted_name);
      copy.register_module(name, module);
      const torch::jit::WithInsertPoint guard(twin_block->return_node());
      Value* const engine = graph->insertGetAttr(graph->inputs()[0], name);
      std::vector<Value*> inputs;
      for (const Value* const input : subgraph.inputs) {
        const auto from_engine = given.find(twin_value(input));
        inputs.push_back(from_engine == given.end() ? twin_value(input) : from_engine->second);
      }
      Value* const list = graph->insertNode(graph->createList(c10::TensorType::get(), inputs))->output();
      Node* const call = graph->create(prim::CallMethod, {engine, list}, 1);
      call->s_(c10::attr::name, "forward");
      call->output()->setType(c10::ListType::ofTensors());
      graph->insertNode(call);
      Node* const unpack = graph->insertNode(graph->createListUnpack(call->output(), subgraph.outputs.size()));
      for (size_t index_out = 0; index_out < subgraph.outputs.size(); ++index_out) {
        given[twin_value(subgraph.outputs[index_out])] = unpack->output(index_out);
        twin_value(subgraph.outputs[index_out])->replaceAllUsesWith(unpack->output(index_out));
      }
      for (const Node* const node : subgraph.with_plain_nodes) {
        if (partitioner_->roles().role(node) == Role::kOperator) {
          replaced.push_back(twin_node(node));
        } else {
          append(node);
        }
      }
    }
  }
  destroy_unused(std::move(replaced));
  torch::jit::EliminateDeadCode(graph);
  return with_graph(std::move(copy), graph);
}

}  // namespace torch_trt_ext::passes
