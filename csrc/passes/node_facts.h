#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <optional>
#include <vector>

namespace torch_trt_ext::passes {

/// Whether a predicate holds for a node of the node's blocks. Predicates that concern deeper blocks too look there
/// themselves.
template <typename Predicate>
bool any_inside(const torch::jit::Node* node, const Predicate& predicate) {
  for (const torch::jit::Block* const block : node->blocks()) {
    for (const torch::jit::Node* const inner : block->nodes()) {
      if (predicate(inner)) {
        return true;
      }
    }
  }
  return false;
}

/// Numbers, strings, devices, None, and lists, tuples and Optionals of them: what no engine takes or gives.
bool is_plain_type(const c10::Type& type);

/// Tensor, or a subtype of it.
bool is_tensor(const torch::jit::Value* value);

/// Whether a node computes plain values from plain values and from what is known of tensors without their data (shape,
/// dtype, device). Blocks count; exceptions are allowed in them; writes are not. Such a node can be computed again.
bool is_plain_computation(const torch::jit::Node* node);

/// The values from outside that a node needs: its inputs and what its blocks capture.
std::vector<torch::jit::Value*> needed_values(const torch::jit::Node* node);

/// Whether a node draws from a random number generator.
bool draws_random_numbers(const torch::jit::Node* node);

/// Whether a plain value is made from a tensor's sizes (and not just from its rank, dtype or device), so that it can
/// vary with the shapes of the inputs.
bool depends_on_sizes(const torch::jit::Value* value);

/// Whether the sizes of what a node gives can differ between calls that have all sizes of its inputs in common.
bool sizes_depend_on_data(const torch::jit::Node* node);

/// The number, of a value that is a constant int.
std::optional<int64_t> constant_int(const torch::jit::Value* value);

/// How many integers a list has, where that is written in the graph.
std::optional<int64_t> length_of_ints(const torch::jit::Value* value);

/// List of Tensor or of Optional[Tensor].
bool is_tensor_list(const torch::jit::Value* value);

/// Optional[Tensor], not known to be a Tensor.
bool is_optional_tensor(const torch::jit::Value* value);

/// Whether a node reads only what can be known of a tensor without its data.
bool reads_metadata_only(const torch::jit::Node* node);

/// Whether it gives elements of its first argument, in another order or number, and nothing else.
bool selects_elements(const torch::jit::Node* node);

/// Whether it reads a mode of the calling thread: engines have no gradients and their own precision, whatever they are.
bool reads_mode(const torch::jit::Node* node);

/// Whether its schema says that it writes to an argument.
bool is_schema_mutable(const torch::jit::Node* node);

/// Whether it or a node in its blocks writes to anything, or calls what may.
bool any_mutable(const torch::jit::Node* node);

/// Whether it writes more than a tensor's data: its sizes, or which memory it has.
bool writes_sizes(const torch::jit::Node* node);

}  // namespace torch_trt_ext::passes
