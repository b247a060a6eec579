#include "passes/traced_convolutions.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>

#include <array>
#include <optional>
#include <vector>

#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

constexpr int64_t kMaxSpatialDims = 3;

/// The plain operator for a traced convolution; nothing where it cannot be told.
std::optional<c10::Symbol> plain_kind(const Node* node, bool transposed) {
  static const std::array<std::array<c10::Symbol, kMaxSpatialDims>, 2> kinds = {
      {{c10::Symbol::fromQualString("aten::conv1d"), c10::Symbol::fromQualString("aten::conv2d"),
        c10::Symbol::fromQualString("aten::conv3d")},
       {c10::Symbol::fromQualString("aten::conv_transpose1d"), c10::Symbol::fromQualString("aten::conv_transpose2d"),
        c10::Symbol::fromQualString("aten::conv_transpose3d")}}};
  const auto dims = length_of_ints(node->namedInput("stride"));
  if (!dims || *dims < 1 || *dims > kMaxSpatialDims) {
    return std::nullopt;
  }
  return kinds.at(transposed ? 1 : 0).at(static_cast<size_t>(*dims - 1));
}

void untie(Graph& graph, Block* block) {
  static const auto traced = c10::Symbol::fromQualString("aten::_convolution");
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* const node = *it++;
    for (Block* const inner : node->blocks()) {
      untie(graph, inner);
    }
    const auto transposed =
        node->kind() == traced ? torch::jit::constant_as<bool>(node->namedInput("transposed")) : std::nullopt;
    const auto kind = transposed ? plain_kind(node, *transposed) : std::nullopt;
    if (!kind) {
      continue;
    }
    std::vector<Value*> inputs;
    for (const char* const name : {"input", "weight", "bias", "stride", "padding"}) {
      inputs.push_back(node->namedInput(name));
    }
    if (*transposed) {
      inputs.push_back(node->namedInput("output_padding"));
      inputs.push_back(node->namedInput("groups"));
      inputs.push_back(node->namedInput("dilation"));
    } else {
      inputs.push_back(node->namedInput("dilation"));
      inputs.push_back(node->namedInput("groups"));
    }
    Node* const plain = graph.create(*kind, inputs)->insertBefore(node);
    plain->copyMetadata(node);
    plain->output()->copyMetadata(node->output());
    node->output()->replaceAllUsesWith(plain->output());
    node->destroy();
  }
}

}  // namespace

void untie_traced_convolutions(torch::jit::Module& module) {
  for (const torch::jit::Module& each : module.modules()) {
    for (const torch::jit::Method& method : each.get_methods()) {
      const auto graph = torch::jit::toGraphFunction(method.function()).graph();
      untie(*graph, graph->block());
    }
  }
}

}  // namespace torch_trt_ext::passes
