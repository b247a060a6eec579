#include "passes/observation.h"

#include <ATen/Functions.h>
#include <ATen/core/List.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

#include "passes/graph_index.h"
#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

std::mutex mutex;
int64_t next_session = 1;

std::unordered_map<int64_t, Session>& sessions() {
  static auto* const all = new std::unordered_map<int64_t, Session>();
  return *all;
}

void merge_shape(ValueRecord& record, at::IntArrayRef sizes) {
  if (record.count == 0) {
    record.min_shape = sizes.vec();
    record.max_shape = sizes.vec();
    return;
  }
  if (record.min_shape.size() != sizes.size()) {
    record.consistent = false;
    return;
  }
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    record.min_shape[dim] = std::min(record.min_shape[dim], sizes[dim]);
    record.max_shape[dim] = std::max(record.max_shape[dim], sizes[dim]);
  }
}

void merge_range(ValueRecord& record, const at::Tensor& tensor) {
  if (tensor.numel() == 0 || tensor.scalar_type() == at::kBool || tensor.is_complex()) {
    return;
  }
  if (!tensor.is_floating_point()) {
    const auto [least, most] = at::aminmax(tensor);
    record.max_abs = std::max({record.max_abs, std::abs(least.item().toDouble()), std::abs(most.item().toDouble())});
    return;
  }
  const at::Tensor largest = at::max(at::abs(tensor));
  const double value = largest.item().toDouble();
  if (std::isfinite(value)) {
    record.max_abs = std::max(record.max_abs, value);
    return;
  }
  record.finite = false;
  const at::Tensor finite = at::where(at::isfinite(tensor), tensor, at::zeros_like(tensor));
  record.max_abs = std::max(record.max_abs, at::max(at::abs(finite)).item().toDouble());
}

void observe(const c10::OperatorHandle& /*op*/, torch::jit::Stack* stack) {
  const int64_t id = torch::jit::pop(*stack).toInt();
  const int64_t session = torch::jit::pop(*stack).toInt();
  const c10::IValue value = torch::jit::pop(*stack);
  // What a loop carries from a branch that left it may be nothing at all.
  if (!value.isTensor()) {
    return;
  }
  const at::Tensor& tensor = value.toTensor();
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = sessions().find(session);
  if (found == sessions().end() || !tensor.defined()) {
    return;
  }
  ValueRecord& record = found->second.values[id];
  if (record.count == 0) {
    record.dtype = tensor.scalar_type();
    record.device = tensor.device();
  }
  record.consistent = record.consistent && record.dtype == tensor.scalar_type() && record.device == tensor.device() &&
                      tensor.layout() == at::kStrided;
  if (tensor.layout() == at::kStrided) {
    merge_shape(record, tensor.sizes());
    merge_range(record, tensor);
  }
  ++record.count;
}

void reach(int64_t session, int64_t branch) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = sessions().find(session);
  if (found != sessions().end()) {
    ++found->second.branches[branch];
  }
}

void record(const c10::List<at::Tensor>& tensors, int64_t session, int64_t id) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = sessions().find(session);
  if (found == sessions().end()) {
    return;
  }
  auto& calls = found->second.calls[id];
  if (calls.size() >= found->second.max_calls) {
    return;
  }
  std::vector<at::Tensor>& copies = calls.emplace_back();
  for (const at::Tensor& tensor : tensors.vec()) {
    // The program may write to the tensor later.
    copies.push_back(tensor.clone());
  }
}

/// The largest number of float8_e4m3fn.
constexpr double kLargestFloat8 = 448;

/// To 255 steps of a tensor's range, or of each channel's of a weight; for at::kFloat8_e4m3fn to the numbers that this
/// type has with the range scaled to its own.
at::Tensor round_to_8_bits(const at::Tensor& tensor, RoundedPlace place, at::ScalarType to) {
  if (place == RoundedPlace::kOutput || tensor.numel() == 0) {
    return tensor;
  }
  at::Tensor largest = at::abs(tensor);
  if (place == RoundedPlace::kConstant && tensor.dim() > 1) {
    std::vector<int64_t> within(static_cast<size_t>(tensor.dim()) - 1);
    std::iota(within.begin(), within.end(), 1);
    largest = at::amax(largest, within, /*keepdim=*/true);
  } else if (place == RoundedPlace::kConstant) {
    // A bias, which stays as it is.
    return tensor;
  } else {
    largest = at::max(largest);
  }
  const bool is_float8 = to == at::kFloat8_e4m3fn;
  const double steps = is_float8 ? kLargestFloat8 : 127;
  const at::Tensor step = at::clamp_min(at::mul(largest, 1.0 / steps), std::numeric_limits<float>::min());
  const at::Tensor scaled = at::div(tensor, step);
  return at::mul(is_float8 ? scaled.to(to).to(at::kFloat) : at::round(scaled), step);
}

/// The tensor as a node that computes in 16 or 8 bits would see it; itself for other nodes, types and sessions.
at::Tensor round_if_asked(const at::Tensor& tensor, int64_t session, int64_t id, int64_t place) {
  if (!tensor.defined() || tensor.scalar_type() != at::kFloat) {
    return tensor;
  }
  at::ScalarType to = at::kFloat;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = sessions().find(session);
    if (found == sessions().end() || found->second.rounded_nodes.count(id) == 0) {
      return tensor;
    }
    to = found->second.rounded_to;
  }
  if (to == at::kChar || to == at::kFloat8_e4m3fn) {
    return round_to_8_bits(tensor, static_cast<RoundedPlace>(place), to);
  }
  return tensor.to(to).to(at::kFloat);
}

TORCH_LIBRARY(torch_trt_ext_passes, library) {
  // Conservative, so that no pass moves or drops them, nor computes once what they give for a constant.
  const auto schema = [](const char* text) { return torch::schema(text, c10::AliasAnalysisKind::CONSERVATIVE); };
  library.def(schema("observe(Tensor value, int session, int id) -> ()"),
              torch::CppFunction::makeFromBoxedFunction<&observe>());
  library.def(schema("reach(int session, int branch) -> ()"), &reach);
  library.def(schema("record(Tensor[] values, int session, int id) -> ()"), &record);
  library.def(schema("round(Tensor value, int session, int id, int place) -> Tensor"), &round_if_asked);
}

}  // namespace

int64_t open_session(size_t max_calls) {
  const std::lock_guard<std::mutex> lock(mutex);
  sessions()[next_session].max_calls = max_calls;
  return next_session++;
}

Session read_session(int64_t session) {
  const std::lock_guard<std::mutex> lock(mutex);
  return sessions().at(session);
}

void close_session(int64_t session) {
  const std::lock_guard<std::mutex> lock(mutex);
  sessions().erase(session);
}

void set_rounding(int64_t session, at::ScalarType to, std::unordered_set<int64_t> nodes) {
  const std::lock_guard<std::mutex> lock(mutex);
  Session& found = sessions().at(session);
  found.rounded_to = to;
  found.rounded_nodes = std::move(nodes);
}

void instrument(const std::shared_ptr<torch::jit::Graph>& graph, int64_t session) {
  using torch::jit::Node;
  using torch::jit::Value;
  static const auto observe_symbol = c10::Symbol::fromQualString("torch_trt_ext_passes::observe");
  static const auto reach_symbol = c10::Symbol::fromQualString("torch_trt_ext_passes::reach");
  const GraphIndex index(*graph);
  const auto add = [&graph, session](c10::Symbol kind, std::vector<Value*> inputs, int64_t id) {
    inputs.push_back(graph->insertConstant(session));
    inputs.push_back(graph->insertConstant(id));
    graph->insertNode(graph->create(kind, inputs, 0));
  };
  {
    const torch::jit::WithInsertPoint guard(*graph->nodes().begin());
    for (Value* const input : graph->inputs()) {
      if (is_tensor(input)) {
        add(observe_symbol, {input}, static_cast<int64_t>(index.id_of(input)));
      }
    }
  }
  for (Node* const node : index.nodes()) {
    for (size_t branch = 0; branch < node->blocks().size(); ++branch) {
      torch::jit::Block* const block = node->blocks()[branch];
      const torch::jit::WithInsertPoint guard(block->nodes().begin() == block->nodes().end() ? block->return_node()
                                                                                             : *block->nodes().begin());
      if (node->kind() == c10::prim::If) {
        add(reach_symbol, {}, static_cast<int64_t>(2 * index.id_of(node) + branch));
      }
      for (Value* const input : block->inputs()) {
        if (is_tensor(input)) {
          add(observe_symbol, {input}, static_cast<int64_t>(index.id_of(input)));
        }
      }
    }
    if (node->kind() == c10::prim::Constant || node->kind() == c10::prim::Uninitialized) {
      continue;
    }
    const torch::jit::WithInsertPoint guard(node->next());
    for (Value* const output : node->outputs()) {
      if (is_tensor(output)) {
        add(observe_symbol, {output}, static_cast<int64_t>(index.id_of(output)));
      }
    }
  }
}

}  // namespace torch_trt_ext::passes
