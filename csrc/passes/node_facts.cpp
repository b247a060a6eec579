#include "passes/node_facts.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/enum_tag.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <string>
#include <unordered_set>

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Value;
namespace aten = c10::aten;
namespace prim = c10::prim;

bool reads_sizes(const Node* node) {
  static const Symbol numel = Symbol::fromQualString("aten::numel");
  return node->kind() == aten::size || node->kind() == numel || node->kind() == aten::len;
}

/// Whether an argument of this name is known to have this value.
bool is_known(const Node* node, const std::string& argument, const c10::IValue& value) {
  const torch::jit::FunctionSchema& schema = node->schema();
  const auto position = schema.argumentIndexWithName(argument);
  const auto known = position ? torch::jit::toIValue(node->input(static_cast<size_t>(*position))) : std::nullopt;
  return known && known->tagKind() == value.tagKind() && *known == value;
}

void collect_needed(const Node* node, const Node* outermost, std::vector<Value*>& needed) {
  const auto is_outside = [outermost](const Value* value) {
    const Node* owner = value->node()->owningBlock()->owningNode();
    while (owner != nullptr) {
      if (owner == outermost) {
        return false;
      }
      owner = owner->owningBlock() == nullptr ? nullptr : owner->owningBlock()->owningNode();
    }
    return true;
  };
  const auto add = [&](Value* value) {
    if (is_outside(value) && std::find(needed.begin(), needed.end(), value) == needed.end()) {
      needed.push_back(value);
    }
  };
  for (const Value* const input : node->inputs()) {
    add(const_cast<Value*>(input));
  }
  for (const Block* const block : node->blocks()) {
    for (const Node* const inner : block->nodes()) {
      collect_needed(inner, outermost, needed);
    }
    for (const Value* const output : block->outputs()) {
      add(const_cast<Value*>(output));
    }
  }
}

/// Whether all indices of an `aten::index` are known to be integers, not masks.
bool takes_by_integers(const Node* node) {
  const auto is_mask = [](at::ScalarType type) { return type == at::kBool || type == at::kByte; };
  const Value* const indices = node->input(1);
  if (const auto known = torch::jit::toIValue(indices)) {
    const auto elements = known->toListRef();
    return std::all_of(elements.begin(), elements.end(), [&is_mask](const c10::IValue& index) {
      return index.isNone() || !index.toTensor().defined() || !is_mask(index.toTensor().scalar_type());
    });
  }
  const auto elements = indices->node()->inputs();
  return indices->node()->kind() == prim::ListConstruct &&
         std::all_of(elements.begin(), elements.end(), [&is_mask](const Value* index) {
           const auto type = index->type()->cast<c10::TensorType>();
           return index->mustBeNone() || (type != nullptr && type->scalarType() && !is_mask(*type->scalarType()));
         });
}

}  // namespace

bool reads_metadata_only(const Node* node) {
  static const std::unordered_set<Symbol> kinds = {
      aten::size,
      aten::dim,
      Symbol::fromQualString("aten::numel"),
      aten::is_floating_point,
      aten::is_complex,
      aten::__is__,
      aten::__isnot__,
      prim::dtype,
      prim::device,
      prim::layout,
      prim::is_cuda,
      prim::requires_grad,
      Symbol::fromQualString("aten::len"),
      Symbol::fromQualString("prim::is_nested"),
      Symbol::fromQualString("prim::is_cpu"),
      Symbol::fromQualString("prim::type"),
      Symbol::fromQualString("prim::ndim"),
  };
  return kinds.count(node->kind()) != 0;
}

bool selects_elements(const Node* node) {
  static const std::unordered_set<std::string> kinds = {
      "aten::unsqueeze", "aten::squeeze",   "aten::slice",  "aten::select", "aten::view",  "aten::reshape",
      "aten::expand",    "aten::transpose", "aten::repeat", "aten::clone",  "aten::flip",  "aten::contiguous",
      "aten::expand_as", "aten::permute",   "aten::detach", "aten::roll",   "aten::alias", "aten::flatten"};
  return kinds.count(node->kind().toQualString()) != 0;
}

bool reads_mode(const Node* node) {
  static const std::unordered_set<Symbol> kinds = {
      Symbol::fromQualString("aten::is_autocast_enabled"),
      Symbol::fromQualString("aten::is_autocast_cpu_enabled"),
      Symbol::fromQualString("aten::is_grad_enabled"),
  };
  return kinds.count(node->kind()) != 0;
}

bool is_schema_mutable(const Node* node) {
  const torch::jit::FunctionSchema* const schema = node->maybeSchema();
  return schema != nullptr && schema->is_mutable();
}

bool any_mutable(const Node* node) {
  return is_schema_mutable(node) || node->kind() == prim::SetAttr || node->kind() == prim::CallMethod ||
         node->kind() == prim::CallFunction || any_inside(node, any_mutable);
}

bool writes_sizes(const Node* node) {
  static const std::unordered_set<Symbol> kinds = {
      aten::resize_,    aten::resize_as_, aten::set_,      aten::squeeze_,  aten::unsqueeze_,
      aten::transpose_, aten::t_,         aten::swapaxes_, aten::swapdims_, aten::as_strided_,
  };
  if (!is_schema_mutable(node)) {
    return false;
  }
  const auto& arguments = node->schema().arguments();
  return kinds.count(node->kind()) != 0 || !node->kind().is_aten() ||
         std::any_of(arguments.begin(), arguments.end(),
                     [](const c10::Argument& argument) { return argument.is_out(); });
}

std::optional<int64_t> constant_int(const Value* value) {
  const auto constant = torch::jit::toIValue(value);
  return constant && constant->isInt() ? std::make_optional(constant->toInt()) : std::nullopt;
}

std::optional<int64_t> length_of_ints(const Value* value) {
  if (value->type()->kind() != c10::TypeKind::ListType) {
    return std::nullopt;
  }
  // A list that is written to, or kept somewhere, may have got longer.
  const auto only_reads = [](const torch::jit::Use& use) {
    return use.user->kind().is_aten() && !any_mutable(use.user);
  };
  if (value->node()->kind() == prim::ListConstruct &&
      std::all_of(value->uses().begin(), value->uses().end(), only_reads)) {
    return static_cast<int64_t>(value->node()->inputs().size());
  }
  const auto constant = torch::jit::toIValue(value);
  return constant && constant->isIntList() ? std::make_optional(static_cast<int64_t>(constant->toIntVector().size()))
                                           : std::nullopt;
}

bool is_tensor_list(const Value* value) {
  const auto list = value->type()->cast<c10::ListType>();
  return list != nullptr && (list->getElementType()->isSubtypeOf(*c10::TensorType::get()) ||
                             list->getElementType()->isSubtypeOf(*c10::OptionalType::ofTensor()));
}

bool is_optional_tensor(const Value* value) {
  return !is_tensor(value) && value->type()->kind() == c10::OptionalType::Kind &&
         value->type()->isSubtypeOf(*c10::OptionalType::ofTensor());
}

bool is_plain_type(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::NoneType:
    case c10::TypeKind::NumberType:
    case c10::TypeKind::DeviceObjType:
    case c10::TypeKind::ScalarTypeType:
    case c10::TypeKind::LayoutType:
    case c10::TypeKind::MemoryFormatType:
      return true;
    case c10::TypeKind::OptionalType:
    case c10::TypeKind::ListType:
    case c10::TypeKind::TupleType:
      return std::all_of(type.containedTypes().begin(), type.containedTypes().end(),
                         [](const c10::TypePtr& contained) { return is_plain_type(*contained); });
    default:
      return false;
  }
}

bool is_tensor(const Value* value) {
  return value->type()->isSubtypeOf(*c10::TensorType::get());
}

bool is_plain_computation(const Node* node) {
  if (node->kind() == prim::Constant || node->kind() == prim::Uninitialized) {
    return true;
  }
  if (node->kind() == prim::RaiseException) {
    return true;
  }
  const bool observable = node->blocks().empty() && (node->hasSideEffects() || draws_random_numbers(node));
  if (is_schema_mutable(node) || (observable && !reads_mode(node))) {
    return false;
  }
  if (node->kind() == prim::GetAttr || node->kind() == prim::CallMethod || node->kind() == prim::CallFunction ||
      node->kind() == prim::SetAttr || node->kind() == prim::CreateObject) {
    return false;
  }
  for (const Value* const output : node->outputs()) {
    if (!is_plain_type(*output->type())) {
      return false;
    }
  }
  for (const Value* const input : node->inputs()) {
    if (!is_plain_type(*input->type()) &&
        !(reads_metadata_only(node) && (is_tensor(input) || is_optional_tensor(input)))) {
      return false;
    }
  }
  return !any_inside(node, [](const Node* inner) { return !is_plain_computation(inner); });
}

bool draws_random_numbers(const Node* node) {
  const torch::jit::FunctionSchema* const schema = node->maybeSchema();
  if (schema == nullptr) {
    return node->isNondeterministic();
  }
  // torch counts attention among the random operators, whatever its rate of dropout.
  if (node->isNondeterministic()) {
    return !schema->argumentIndexWithName("dropout_p") || !is_known(node, "dropout_p", 0.0);
  }
  const auto has = [schema](const char* argument) { return schema->argumentIndexWithName(argument).has_value(); };
  const auto op = c10::Dispatcher::singleton().findSchema(schema->operator_name());
  const bool is_marked = op && op->hasTag(at::Tag::nondeterministic_seeded);
  const bool drops_out = has("dropout_p") || (has("dropout") && has("train"));
  if (!is_marked && !drops_out) {
    return false;
  }
  return !is_known(node, "train", false) && !is_known(node, "training", false) && !is_known(node, "dropout_p", 0.0) &&
         !is_known(node, "dropout", 0.0);
}

bool sizes_depend_on_data(const Node* node) {
  // torch does not mark what it computes by other operators.
  static const std::unordered_set<Symbol> unmarked = {
      Symbol::fromQualString("aten::nonzero_numpy"),
      Symbol::fromQualString("aten::repeat_interleave"),
  };
  if (any_inside(node, sizes_depend_on_data)) {
    return true;
  }
  const torch::jit::FunctionSchema* const schema = node->maybeSchema();
  if (node->kind().is_prim()) {
    return false;
  }
  if (schema == nullptr || !node->kind().is_aten() || unmarked.count(node->kind()) != 0) {
    return true;
  }
  if (node->kind() == aten::index) {
    return !takes_by_integers(node);
  }
  const auto op = c10::Dispatcher::singleton().findSchema(schema->operator_name());
  if (op && (op->hasTag(at::Tag::dynamic_output_shape) || op->hasTag(at::Tag::data_dependent_output))) {
    return true;
  }
  if (node->kind() == aten::where) {
    return node->inputs().size() == 1;
  }
  // Where to split can be in a tensor.
  return node->outputs().size() == 1 && is_tensor_list(node->output()) && node->inputs().size() > 1 &&
         is_tensor(node->input(1));
}

std::vector<Value*> needed_values(const Node* node) {
  std::vector<Value*> needed;
  collect_needed(node, node, needed);
  return needed;
}

bool depends_on_sizes(const Value* value) {
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> waiting = {value->node()};
  while (!waiting.empty()) {
    const Node* const node = waiting.back();
    waiting.pop_back();
    if (!seen.insert(node).second || node->kind() == prim::Constant || node->kind() == prim::Param) {
      continue;
    }
    if (reads_sizes(node)) {
      return true;
    }
    for (const Value* const needed : needed_values(node)) {
      if (!is_tensor(needed)) {
        waiting.push_back(needed->node());
      }
    }
    for (const Block* const block : node->blocks()) {
      for (const Node* const inner : block->nodes()) {
        waiting.push_back(inner);
      }
    }
  }
  return false;
}

}  // namespace torch_trt_ext::passes
