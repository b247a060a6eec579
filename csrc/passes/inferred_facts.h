#pragma once

#include <torch/csrc/jit/ir/ir.h>

#include <memory>

namespace torch_trt_ext::passes {

/// Puts numbers in place of `x.dim()` where the operators that make `x` give this rank whatever the inputs are, so that
/// checks of it go. Gives whether it did. Runs of a graph that raise no error are the same afterwards.
bool fold_known_ranks(const std::shared_ptr<torch::jit::Graph>& graph);

/// Has the device of what is computed read from an input or a constant that must be on the same one. What depends on
/// devices alone, such as a cache with an entry a device, then need not wait for what is computed. The device itself is
/// not put in: constants move when a saved model is loaded to another device.
void read_devices_early(const std::shared_ptr<torch::jit::Graph>& graph);

}  // namespace torch_trt_ext::passes
