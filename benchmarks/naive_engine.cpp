// The shortest torch class that runs a TensorRT engine, as a peer of benchmarks/bench_runtime.py: one context, its own
// memory, nothing checked.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <NvInferRuntime.h>
#include <torch/custom_class.h>

#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace {

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) {
      std::cerr << message << "\n";
    }
  }
};

nvinfer1::IRuntime& runtime() {
  static Logger logger;
  static nvinfer1::IRuntime* const runtime = nvinfer1::createInferRuntime(logger);
  return *runtime;
}

class NaiveEngine : public torch::CustomClassHolder {
 public:
  explicit NaiveEngine(const std::string& plan)
      : engine_(runtime().deserializeCudaEngine(plan.data(), plan.size())),
        context_(engine_->createExecutionContext()) {
    for (int32_t index = 0; index < engine_->getNbIOTensors(); ++index) {
      const char* const name = engine_->getIOTensorName(index);
      (engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT ? inputs_ : outputs_).push_back(name);
    }
  }

  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& inputs) {
    std::vector<at::Tensor> held;
    for (size_t index = 0; index < inputs.size(); ++index) {
      held.push_back(inputs[index].contiguous());
      nvinfer1::Dims dims{};
      dims.nbDims = static_cast<int32_t>(held.back().dim());
      std::copy(held.back().sizes().begin(), held.back().sizes().end(), dims.d);
      context_->setInputShape(inputs_[index].c_str(), dims);
      context_->setTensorAddress(inputs_[index].c_str(), held.back().data_ptr());
    }
    std::vector<at::Tensor> outputs;
    for (const std::string& name : outputs_) {
      const nvinfer1::Dims dims = context_->getTensorShape(name.c_str());
      outputs.push_back(at::empty(std::vector<int64_t>(dims.d, dims.d + dims.nbDims), inputs[0].options()));
      context_->setTensorAddress(name.c_str(), outputs.back().data_ptr());
    }
    context_->enqueueV3(at::cuda::getCurrentCUDAStream());
    return outputs;
  }

  // enqueueV3 alone, with what the last forward bound; its outputs must still be there.
  void enqueue(int64_t calls) {
    for (int64_t call = 0; call < calls; ++call) {
      context_->enqueueV3(at::cuda::getCurrentCUDAStream());
    }
  }

 private:
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
};

}  // namespace

TORCH_LIBRARY(naive_engine, library) {
  library.class_<NaiveEngine>("NaiveEngine")
      .def(torch::init<const std::string&>())
      .def("forward", [](const c10::intrusive_ptr<NaiveEngine>& self,
                         const std::vector<at::Tensor>& inputs) { return self->forward(inputs); })
      .def("enqueue", [](const c10::intrusive_ptr<NaiveEngine>& self, int64_t calls) { self->enqueue(calls); });
}
