#include <c10/util/Exception.h>

#include <map>
#include <mutex>

#include "runtime/engine.h"

namespace torch_trt_ext {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::unique_ptr<Backend>> backends;
};

// Never destroyed: engines held by static objects of other libraries may outlive this one's statics.
Registry& registry() {
  static Registry* const instance = new Registry();
  return *instance;
}

}  // namespace

void register_backend(const std::string& kind, std::unique_ptr<Backend> backend) {
  TORCH_INTERNAL_ASSERT(backend != nullptr);
  const std::lock_guard<std::mutex> lock(registry().mutex);
  // Another copy of the library may have been first; its engines hold pointers to its backend, so that one stays.
  registry().backends.emplace(kind, std::move(backend));
}

Backend* find_backend(const std::string& kind) {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  const auto found = registry().backends.find(kind);
  return found == registry().backends.end() ? nullptr : found->second.get();
}

std::string explain_missing_runtime(const std::string& kind) {
  if (Backend* const backend = find_backend(kind)) {
    return backend->missing_runtime();
  }
  // The TensorRT backend is part of this library.
  if (kind != "openvino") {
    return "engines must be of kind 'tensorrt' or 'openvino', got '" + kind + "'; correct the kind";
  }
  return "running an engine on the CPU needs libtorch_trt_ext_openvino.so, which is not loaded; "
         "pip install openvino and import torch_trt_ext.runtime (in C++: link torch_trt_ext::openvino)";
}

}  // namespace torch_trt_ext
