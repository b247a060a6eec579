#include "runtime/engine.h"
#include "runtime/tensorrt/plan_header.h"

namespace torch_trt_ext::tensorrt {
namespace {

/// Stands in for TensorRT in a build against a torch without CUDA: plans are checked and kept, never run.
class NoCudaBackend : public Backend {
 public:
  std::string missing_runtime() override {
    return "this build of torch_trt_ext has no TensorRT engines, because torch was built without CUDA; install a CUDA "
           "build of torch and build torch_trt_ext against it";
  }

  void check_plan(const at::Tensor& plan) const override { check_plan_header(plan); }

  LoadResult load(const at::Tensor& /*plan*/, c10::optional<at::Device> /*device*/) override {
    LoadResult result;
    result.misfit = std::make_unique<Misfit>(Misfit{Misfit::Kind::kMissingRuntime, missing_runtime()});
    return result;
  }

  std::map<std::string, std::vector<std::string>> describe_environment() const override { return {}; }

  std::string explain_difference(const std::map<std::string, std::vector<std::string>>& /*saved*/) const override {
    return "";
  }
};

const bool kRegistered = [] {
  register_backend("tensorrt", std::make_unique<NoCudaBackend>());
  return true;
}();

}  // namespace
}  // namespace torch_trt_ext::tensorrt
