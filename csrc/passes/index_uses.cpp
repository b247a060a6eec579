#include "passes/index_uses.h"

#include <algorithm>
#include <string>
#include <unordered_map>

#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Node;
using torch::jit::Use;
using torch::jit::Value;
namespace prim = c10::prim;

/// Whether an operator takes an argument as indices into another.
bool takes_indices(const Node* node, size_t position) {
  static const std::unordered_map<std::string, std::string> arguments = {{"aten::index", "indices"},
                                                                         {"aten::embedding", "indices"},
                                                                         {"aten::index_select", "index"},
                                                                         {"aten::gather", "index"}};
  const auto found = arguments.find(node->kind().toQualString());
  return found != arguments.end() && node->maybeSchema() != nullptr &&
         node->schema().argumentIndexWithName(found->second) == static_cast<int>(position);
}

/// Whether what becomes of a list or a selection is known to index only.
bool goes_to_indices(const Use& use) {
  if (takes_indices(use.user, use.offset)) {
    return true;
  }
  const bool passes_on = use.user->kind() == prim::ListConstruct || (use.offset == 0 && selects_elements(use.user));
  return passes_on && only_indexes(use.user->output());
}

}  // namespace

bool only_indexes(const Value* value) {
  return value->hasUses() && std::all_of(value->uses().begin(), value->uses().end(), goes_to_indices);
}

}  // namespace torch_trt_ext::passes
