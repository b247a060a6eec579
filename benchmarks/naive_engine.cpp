// The shortest torch class that runs a TensorRT engine, as a peer of benchmarks/bench_runtime.py: one context, its own
// memory, nothing checked.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <NvInferRuntime.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
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

  // Binds a call's memory, which stays.
  void prepare(const std::vector<at::Tensor>& inputs) {
    prepared_ = inputs;
    prepared_.push_back(forward(inputs).at(0));
  }

  // One step of a call, many times, with what prepare() bound.
  void repeat(const std::string& step, int64_t calls) {
    const at::cuda::CUDAStream stream = at::cuda::getCurrentCUDAStream();
    if (step == "enqueueV3") {
      repeat(calls, [&] { context_->enqueueV3(stream); });
    } else if (step == "an output allocated and freed") {
      const auto options = at::TensorOptions().device(at::kCUDA);
      repeat(calls, [&] { at::empty({1, 3, 8, 8}, options); });
    } else if (step == "an address set") {
      const at::Tensor two = at::empty({2, 64}, at::TensorOptions().device(at::kCUDA));
      bool odd = false;
      repeat(calls, [&] {
        odd = !odd;
        context_->setTensorAddress(outputs_[0].c_str(), two[odd ? 1 : 0].data_ptr());
      });
      context_->setTensorAddress(outputs_[0].c_str(), prepared_.back().data_ptr());
    } else if (step == "an event recorded") {
      at::cuda::CUDAEvent event;
      repeat(calls, [&] { event.record(stream); });
    } else if (step == "device, stream and capture asked for") {
      repeat(calls, [&] {
        const c10::cuda::CUDAGuard guard(stream.device());
        (void)at::cuda::getCurrentCUDAStream();
        (void)c10::cuda::currentStreamCaptureStatusMayInitCtx();
      });
    } else {
      TORCH_CHECK(false, "no such step: ", step);
    }
  }

 private:
  template <class Step>
  static void repeat(int64_t calls, const Step& step) {
    for (int64_t call = 0; call < calls; ++call) {
      step();
    }
  }

  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<std::string> inputs_;
  std::vector<std::string> outputs_;
  std::vector<at::Tensor> prepared_;
};

}  // namespace

TORCH_LIBRARY(naive_engine, library) {
  library.class_<NaiveEngine>("NaiveEngine")
      .def(torch::init<const std::string&>())
      .def("forward", [](const c10::intrusive_ptr<NaiveEngine>& self,
                         const std::vector<at::Tensor>& inputs) { return self->forward(inputs); })
      .def("prepare", [](const c10::intrusive_ptr<NaiveEngine>& self,
                         const std::vector<at::Tensor>& inputs) { self->prepare(inputs); })
      .def("repeat", [](const c10::intrusive_ptr<NaiveEngine>& self, const std::string& step, int64_t calls) {
        self->repeat(step, calls);
      });
}
