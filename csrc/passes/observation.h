#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/ir/ir.h>

#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace torch_trt_ext::passes {

/// What the runs showed of one value.
struct ValueRecord {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  /// Sizes, smallest and largest; empty when the rank varied, which `consistent` then says.
  std::vector<int64_t> min_shape;
  std::vector<int64_t> max_shape;
  /// Whether rank, dtype and device were the same in every run.
  bool consistent = true;
  /// Largest magnitude of the finite elements; 0 without elements.
  double max_abs = 0;
  bool finite = true;
  int64_t count = 0;
};

/// Everything recorded under one number. Sessions live from open_session to close_session; their operators are called
/// by graphs that instrument() made, from any thread.
struct Session {
  std::unordered_map<int64_t, ValueRecord> values;
  /// How often each branch ran: 2 × node number + branch.
  std::unordered_map<int64_t, int64_t> branches;
  /// The inputs of each subgraph, one list a call.
  std::unordered_map<int64_t, std::vector<std::vector<at::Tensor>>> calls;
  /// How many calls of a subgraph keep their tensors; of the others none.
  size_t max_calls = 8;
  /// The nodes whose float32 inputs and outputs round_if_asked() rounds, and to which type.
  std::unordered_set<int64_t> rounded_nodes;
  at::ScalarType rounded_to = at::kHalf;
};

/// Where a node has the tensor that a rounding operator rounds.
enum class RoundedPlace : int64_t { kInput, kOutput, kConstant };

int64_t open_session(size_t max_calls);
/// The session as it is now; it goes on.
Session read_session(int64_t session);
void close_session(int64_t session);
/// Has graphs with rounding operators (see extract_rounding) round these nodes from now on, and no others: what they
/// take and give to a type of 16 bits, or, for at::kChar and at::kFloat8_e4m3fn, what they take to 8 bits.
void set_rounding(int64_t session, at::ScalarType to, std::unordered_set<int64_t> nodes);

/// Adds to a graph operators that record every tensor and every branch, by the numbers that GraphIndex gives before.
void instrument(const std::shared_ptr<torch::jit::Graph>& graph, int64_t session);

}  // namespace torch_trt_ext::passes
