#include "python/engine_call.h"

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <string>
#include <utility>
#include <vector>

namespace torch_trt_ext::python {
namespace {

std::string type_name(const py::handle& value) {
  return Py_TYPE(value.ptr())->tp_name;
}

}  // namespace

EngineCall::EngineCall(const torch::jit::Object& engine) {
  const c10::intrusive_ptr<torch::CustomClassHolder> holder = engine._ivalue()->getSlot(0).toCapsule();
  auto* const callable = dynamic_cast<Callable*>(holder.get());
  TORCH_CHECK_TYPE(callable != nullptr, "engine must be one of torch_trt_ext's, got ", engine.type()->str(),
                   "; pass the engine itself, as module.engine");
  engine_ = c10::intrusive_ptr<Callable>::reclaim_copy(callable);
}

py::list EngineCall::operator()(const py::handle& inputs) const {
  if (!PyList_Check(inputs.ptr()) && !PyTuple_Check(inputs.ptr())) {
    throw py::type_error("inputs must be a list or tuple of tensors, got " + type_name(inputs));
  }
  const auto count = static_cast<size_t>(PySequence_Fast_GET_SIZE(inputs.ptr()));
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (size_t index = 0; index < count; ++index) {
    const py::handle item = PySequence_Fast_GET_ITEM(inputs.ptr(), static_cast<Py_ssize_t>(index));
    if (!THPVariable_Check(item.ptr())) {
      throw py::type_error("input " + std::to_string(index) + " must be a tensor, got " + type_name(item));
    }
    tensors.push_back(THPVariable_Unpack(item.ptr()));
  }
  std::vector<at::Tensor> answers;
  HANDLE_TH_ERRORS
  const py::gil_scoped_release without_gil;
  answers = engine_->forward(std::move(tensors));
  END_HANDLE_TH_ERRORS_PYBIND
  py::list outputs(answers.size());
  for (size_t index = 0; index < answers.size(); ++index) {
    PyList_SET_ITEM(outputs.ptr(), static_cast<Py_ssize_t>(index), THPVariable_Wrap(std::move(answers[index])));
  }
  return outputs;
}

}  // namespace torch_trt_ext::python
