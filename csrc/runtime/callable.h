#pragma once

#include <torch/custom_class.h>

#include <vector>

#include "runtime/export.h"

namespace torch_trt_ext {

/// What C++ beside TorchScript calls an engine through: the one method that torch_trt_ext._C needs, virtual so that it
/// need not be linked with libtorch_trt_ext.so.
class TORCH_TRT_EXT_API Callable : public torch::CustomClassHolder {
 public:
  virtual std::vector<at::Tensor> forward(std::vector<at::Tensor> inputs) = 0;
};

}  // namespace torch_trt_ext
