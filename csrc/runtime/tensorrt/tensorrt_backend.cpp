#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <mutex>

#include "runtime/engine.h"
#include "runtime/tensorrt/error_recorder.h"
#include "runtime/tensorrt/library.h"
#include "runtime/tensorrt/logger.h"
#include "runtime/tensorrt/plan_header.h"
#include "runtime/tensorrt/plugin_libraries.h"
#include "runtime/tensorrt/tensorrt_engine.h"

namespace torch_trt_ext::tensorrt {
namespace {

using Facts = std::map<std::string, std::vector<std::string>>;

LoadResult misfit(Misfit::Kind kind, std::string message) {
  LoadResult result;
  result.misfit = std::make_unique<Misfit>(Misfit{kind, std::move(message)});
  return result;
}

std::string first(const Facts& facts, const std::string& name) {
  const auto found = facts.find(name);
  return found == facts.end() || found->second.empty() ? "" : found->second[0];
}

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

class TensorRTBackend : public Backend {
 public:
  std::string missing_runtime() override {
    // Without a device TensorRT crashes instead of failing, so CUDA is asked first.
    if (c10::cuda::device_count() == 0) {
      return "a TensorRT engine needs an NVIDIA GPU, CUDA finds none; run it on a machine with one, and look at "
             "nvidia-smi if this is one";
    }
    std::string error;
    (void)Library::find(error);
    return error;
  }

  void add_library_folder(const std::string& folder) override { Library::add_folder(folder); }

  void check_plan(const at::Tensor& plan) const override { check_plan_header(plan); }

  LoadResult load(const at::Tensor& plan, c10::optional<at::Device> device) override {
    const std::string missing = missing_runtime();
    if (!missing.empty()) {
      return misfit(Misfit::Kind::kMissingRuntime, missing);
    }
    std::string error;
    const Library* const library = Library::find(error);
    const at::Device target = device.value_or(at::Device(at::kCUDA, c10::cuda::current_device()));
    const c10::cuda::CUDAGuard guard(target);
    const std::string& plugin_failure = register_standard_plugins(*library);
    nvinfer1::IRuntime* const runtime = start_runtime(*library);
    if (runtime == nullptr) {
      return misfit(Misfit::Kind::kMissingRuntime,
                    "TensorRT " + library->version() + " must start, it did not: " + ErrorRecorder::last_words());
    }
    ErrorRecorder::forget();
    std::unique_ptr<nvinfer1::ICudaEngine> engine(
        runtime->deserializeCudaEngine(plan.const_data_ptr(), static_cast<size_t>(plan.numel())));
    if (engine == nullptr) {
      return misfit(Misfit::Kind::kRefused, explain_refusal(plan, *library, plugin_failure));
    }
    LoadResult result;
    try {
      result.engine = std::make_unique<TensorRTEngine>(std::move(engine), target);
    } catch (const c10::Error& error) {
      return misfit(Misfit::Kind::kRefused, error.what_without_backtrace());
    }
    return result;
  }

  Facts describe_environment() const override {
    std::string error;
    const Library* const library = Library::find(error);
    if (library == nullptr || c10::cuda::device_count() == 0) {
      return {};
    }
    cudaDeviceProp properties{};
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, c10::cuda::current_device()));
    return {{"tensorrt_version", {library->version()}},
            {"gpu", {properties.name}},
            {"compute_capability", {std::to_string(properties.major) + "." + std::to_string(properties.minor)}}};
  }

  std::string explain_difference(const Facts& saved) const override {
    const Facts here = describe_environment();
    const std::string gpu = first(saved, "gpu");
    if (gpu.empty() || saved == here) {
      return "";
    }
    std::string text = "it was saved on " + gpu + ", compute capability " + first(saved, "compute_capability") +
                       ", with TensorRT " + first(saved, "tensorrt_version");
    if (!here.empty()) {
      text += "; here is " + first(here, "gpu") + ", compute capability " + first(here, "compute_capability") +
              ", with TensorRT " + first(here, "tensorrt_version");
    }
    return text;
  }

 private:
  /// The process's one runtime, made at the first use; null with an error in the log when TensorRT cannot start.
  static nvinfer1::IRuntime* start_runtime(const Library& library) {
    static std::mutex mutex;
    static nvinfer1::IRuntime* runtime = nullptr;
    const std::lock_guard<std::mutex> lock(mutex);
    if (runtime == nullptr) {
      ErrorRecorder::forget();
      // Engines may outlive every static object, so the runtime is never destroyed.
      runtime = library.create_runtime(Logger::instance()).release();
      if (runtime != nullptr) {
        // Engines and their contexts inherit it.
        runtime->setErrorRecorder(&ErrorRecorder::instance());
      }
    }
    return runtime;
  }

  static std::string explain_refusal(const at::Tensor& plan, const Library& library,
                                     const std::string& plugin_failure) {
    const std::string version = plan_version(plan);
    if (!starts_with(version, library.version() + ".")) {
      return "the plan must be of TensorRT " + library.version() + ", which is what runs here, got one of TensorRT " +
             version +
             "; build it again with this TensorRT, or install that one (TensorRT said: " + ErrorRecorder::last_words() +
             ")";
    }
    const std::string errors = ErrorRecorder::last_words();
    if (errors.find("lugin") != std::string::npos) {
      return "the plan needs a plugin that is not registered; open its library with "
             "torch_trt_ext.load_plugin_library(path) first (" +
             (plugin_failure.empty() ? "" : plugin_failure + "; ") + "TensorRT said: " + errors + ")";
    }
    return "TensorRT " + library.version() +
           " refused the plan: it is damaged, or was built for another GPU; build it again on this machine (TensorRT "
           "said: " +
           errors + ")";
  }
};

const bool kRegistered = [] {
  register_backend("tensorrt", std::make_unique<TensorRTBackend>());
  return true;
}();

}  // namespace
}  // namespace torch_trt_ext::tensorrt
