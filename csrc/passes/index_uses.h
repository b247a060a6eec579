#pragma once

#include <torch/csrc/jit/ir/ir.h>

namespace torch_trt_ext::passes {

/// Whether the integers of a tensor do nothing but say which elements of other tensors are taken. Such fit 32 bits: no
/// dimension is larger, and PyTorch raises an error for what is beyond one.
bool only_indexes(const torch::jit::Value* value);

}  // namespace torch_trt_ext::passes
