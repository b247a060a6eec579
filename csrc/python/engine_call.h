#pragma once

#include <torch/csrc/jit/api/object.h>
#include <torch/csrc/jit/python/pybind.h>

namespace torch_trt_ext::python {

/// Calls an engine's forward from Python with less in between than torch's own way: the method is found once, and its
/// one argument needs no comparison with a schema.
class EngineCall {
 public:
  /// torch_trt_ext.engine_call makes sure that the object is an engine.
  explicit EngineCall(const torch::jit::Object& engine);

  /// `inputs` is a list or tuple of tensors. Throws what forward throws, and py::type_error when it is something else.
  py::list operator()(const py::handle& inputs) const;

 private:
  torch::jit::IValue engine_;
  torch::jit::Function* forward_;
};

}  // namespace torch_trt_ext::python
