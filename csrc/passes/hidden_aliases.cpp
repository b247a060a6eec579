#include "passes/hidden_aliases.h"

#include <torch/csrc/jit/ir/constants.h>

#include <unordered_set>
#include <vector>

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::Value;
namespace aten = c10::aten;

std::unordered_set<Symbol> symbols(std::initializer_list<const char*> names) {
  std::unordered_set<Symbol> found;
  for (const char* const name : names) {
    found.insert(Symbol::fromQualString(name));
  }
  return found;
}

bool is_dropout(const Node* node) {
  static const auto kinds = symbols({"aten::dropout", "aten::dropout_", "aten::feature_dropout",
                                     "aten::feature_dropout_", "aten::alpha_dropout", "aten::alpha_dropout_",
                                     "aten::feature_alpha_dropout", "aten::feature_alpha_dropout_"});
  return kinds.count(node->kind()) != 0;
}

void visit(Graph& graph, Block* block) {
  const std::vector<Node*> nodes(block->nodes().begin(), block->nodes().end());
  for (Node* const node : nodes) {
    for (Block* const inner : node->blocks()) {
      visit(graph, inner);
    }
    if (is_dropout(node)) {
      const auto trains = torch::jit::toIValue(node->input(2));
      if (trains && trains->isBool() && !trains->toBool()) {
        node->output()->replaceAllUsesWith(node->input(0));
        node->destroy();
      }
    } else if (node->kind() == aten::type_as) {
      const torch::jit::WithInsertPoint guard(node);
      Value* const no = graph.insertConstant(false);
      Node* const cast = graph.create(aten::to, {node->input(0), node->input(1), no, no, graph.insertConstant({})}, 1);
      cast->copyMetadata(node);
      graph.insertNode(cast);
      node->output()->replaceAllUsesWith(cast->output());
      node->destroy();
    } else if (node->kind() == aten::add_ && node->output()->type()->kind() == c10::TypeKind::ListType) {
      node->output()->replaceAllUsesWith(node->input(0));
    }
  }
}

}  // namespace

void resolve_hidden_aliases(const std::shared_ptr<Graph>& graph) {
  visit(*graph, graph->block());
}

bool hides_alias(const Node* node) {
  static const auto kinds =
      symbols({"aten::meshgrid", "aten::broadcast_tensors", "aten::atleast_1d", "aten::atleast_2d", "aten::atleast_3d",
               "aten::einsum", "aten::unsafe_chunk", "aten::unsafe_split", "aten::unsafe_split_with_sizes",
               "aten::_unsafe_view", "aten::cartesian_prod", "aten::sum_to_size", "aten::conj_physical"});
  return kinds.count(node->kind()) != 0 || is_dropout(node);
}

}  // namespace torch_trt_ext::passes
