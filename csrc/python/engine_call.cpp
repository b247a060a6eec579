#include "python/engine_call.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string>

namespace torch_trt_ext::python {
namespace {

std::string type_name(const py::handle& value) {
  return Py_TYPE(value.ptr())->tp_name;
}

}  // namespace

EngineCall::EngineCall(const torch::jit::Object& engine)
    : engine_(engine._ivalue()), forward_(&engine.get_method("forward").function()) {}

py::list EngineCall::operator()(const py::handle& inputs) const {
  if (!PyList_Check(inputs.ptr()) && !PyTuple_Check(inputs.ptr())) {
    throw py::type_error("inputs must be a list or tuple of tensors, got " + type_name(inputs));
  }
  const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(inputs.ptr()));
  c10::List<at::Tensor> tensors;
  tensors.reserve(count);
  for (size_t index = 0; index < count; ++index) {
    const py::handle item = PySequence_Fast_GET_ITEM(inputs.ptr(), static_cast<Py_ssize_t>(index));
    if (!THPVariable_Check(item.ptr())) {
      throw py::type_error("input " + std::to_string(index) + " must be a tensor, got " + type_name(item));
    }
    tensors.push_back(THPVariable_Unpack(item.ptr()));
  }
  torch::jit::Stack stack;
  stack.reserve(2);
  stack.emplace_back(engine_);
  stack.emplace_back(std::move(tensors));
  HANDLE_TH_ERRORS
  const py::gil_scoped_release without_gil;
  forward_->run(stack);
  END_HANDLE_TH_ERRORS_PYBIND
  const c10::List<at::Tensor> answers = stack.back().toTensorList();
  py::list outputs(answers.size());
  for (size_t index = 0; index < answers.size(); ++index) {
    PyList_SET_ITEM(outputs.ptr(), static_cast<Py_ssize_t>(index), THPVariable_Wrap(answers.get(index)));
  }
  return outputs;
}

}  // namespace torch_trt_ext::python
