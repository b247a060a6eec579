#include "passes/magnitudes.h"

#include <ATen/Functions.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <optional>
#include <string>
#include <unordered_set>

#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Node;
using torch::jit::Value;
namespace prim = c10::prim;

using Magnitude = std::optional<int64_t>;

/// Below the square root of 2^63, so that no product overflows.
constexpr int64_t kLargest = int64_t{1} << 24;

/// Types in which a sum of small integers is exact, or wraps to something smaller: not uint8, where -1 is 255.
bool keeps_magnitudes(at::ScalarType type) {
  return type == at::kBool || type == at::kInt || type == at::kLong || type == at::kFloat || type == at::kDouble;
}

Magnitude of_constant(const Value* value) {
  const auto constant = torch::jit::toIValue(value);
  if (!constant) {
    return std::nullopt;
  }
  if (constant->isBool()) {
    return 1;
  }
  if (constant->isInt()) {
    const int64_t number = constant->toInt();
    return number > kLargest || number < -kLargest ? std::nullopt : Magnitude(std::abs(number));
  }
  if (!constant->isTensor() || !constant->toTensor().defined() || constant->toTensor().numel() == 0) {
    return std::nullopt;
  }
  const at::Tensor& tensor = constant->toTensor();
  const bool is_integral = tensor.scalar_type() == at::kLong || tensor.scalar_type() == at::kInt;
  if (tensor.layout() != at::kStrided || tensor.is_meta() || (!is_integral && tensor.scalar_type() != at::kBool)) {
    return std::nullopt;
  }
  if (!is_integral) {
    return 1;
  }
  const auto [least, most] = at::aminmax(tensor);
  const auto low = least.item<int64_t>();
  const auto high = most.item<int64_t>();
  return low < -kLargest || high > kLargest ? std::nullopt : Magnitude(std::max(std::abs(low), std::abs(high)));
}

/// They give bool.
const std::unordered_set<std::string>& conditions() {
  static const std::unordered_set<std::string> kinds = {
      "aten::eq",    "aten::ne",          "aten::lt",          "aten::le",         "aten::gt",
      "aten::ge",    "aten::logical_and", "aten::logical_not", "aten::logical_or", "aten::isfinite",
      "aten::isinf", "aten::isnan",       "aten::logical_xor"};
  return kinds;
}

class Finder {
 public:
  explicit Finder(const torch::jit::AliasDb& alias_db) : alias_db_(alias_db) {}

  void visit(const Node* node) {
    if (node->outputs().size() != 1 || !node->blocks().empty() || alias_db_.hasWriters(node)) {
      return;
    }
    const Magnitude found = of_node(node);
    if (found && *found <= kLargest) {
      found_.emplace(node->output(), *found);
    }
  }

  std::unordered_map<const Value*, int64_t> take() { return std::move(found_); }

 private:
  Magnitude of(const Value* value) const {
    const auto known = found_.find(value);
    return known == found_.end() ? std::nullopt : Magnitude(known->second);
  }

  Magnitude of_input(const Node* node, const std::string& argument) const {
    const auto position = node->schema().argumentIndexWithName(argument);
    return position ? of(node->input(static_cast<size_t>(*position))) : std::nullopt;
  }

  Magnitude of_node(const Node* node) const {
    if (node->kind() == prim::Constant) {
      return of_constant(node->output());
    }
    if (node->maybeSchema() == nullptr || !is_tensor(node->output()) || is_schema_mutable(node)) {
      return std::nullopt;
    }
    const std::string kind = node->kind().toQualString();
    if (conditions().count(kind) != 0) {
      return 1;
    }
    if (selects_elements(node) || kind == "aten::neg" || kind == "aten::abs") {
      return of(node->input(0));
    }
    if (kind == "aten::to") {
      return of_conversion(node);
    }
    if (kind == "aten::add" || kind == "aten::sub" || kind == "aten::rsub") {
      const Magnitude self = of_input(node, "self");
      const Magnitude other = of_input(node, "other");
      const Magnitude alpha = of_input(node, "alpha");
      if (!self || !other || !alpha) {
        return std::nullopt;
      }
      // rsub scales the first, the others the second.
      return kind == "aten::rsub" ? *other + *alpha * *self : *self + *alpha * *other;
    }
    if (kind == "aten::mul") {
      const Magnitude self = of_input(node, "self");
      const Magnitude other = of_input(node, "other");
      return self && other ? Magnitude(*self * *other) : std::nullopt;
    }
    return std::nullopt;
  }

  /// A conversion to a type that is known, or that leaves the type as it is.
  Magnitude of_conversion(const Node* node) const {
    const auto position = node->schema().argumentIndexWithName("dtype");
    if (!position) {
      return std::nullopt;
    }
    const auto dtype = torch::jit::toIValue(node->input(static_cast<size_t>(*position)));
    const bool is_kept = dtype && (dtype->isNone() || (dtype->isInt() && keeps_magnitudes(dtype->toScalarType())));
    return is_kept ? of(node->input(0)) : std::nullopt;
  }

  const torch::jit::AliasDb& alias_db_;
  std::unordered_map<const Value*, int64_t> found_;
};

}  // namespace

std::unordered_map<const Value*, int64_t> find_magnitudes(const GraphIndex& index,
                                                          const torch::jit::AliasDb& alias_db) {
  Finder finder(alias_db);
  for (const Node* const node : index.nodes()) {
    finder.visit(node);
  }
  return finder.take();
}

}  // namespace torch_trt_ext::passes
