#pragma once

#include <torch/csrc/jit/api/object.h>
#include <torch/csrc/jit/python/pybind.h>

#include "runtime/callable.h"

namespace torch_trt_ext::python {

/// Calls an engine's forward from Python with less in between than torch's own way: no schema, no stack, no lists of
/// TorchScript's.
class EngineCall {
 public:
  /// Throws c10::TypeError when the object is no engine.
  explicit EngineCall(const torch::jit::Object& engine);

  /// `inputs` is a list or tuple of tensors. Throws what forward throws, and py::type_error when it is something else.
  py::list operator()(const py::handle& inputs) const;

 private:
  c10::intrusive_ptr<Callable> engine_;
};

}  // namespace torch_trt_ext::python
