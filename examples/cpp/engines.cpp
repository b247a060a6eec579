#include "engines.h"

namespace {

c10::IValue call(const c10::IValue& object, const char* method) {
  return object.toObjectRef().type()->getMethod(method)({object});
}

/// The class's name without the namespaces that torch puts before it; empty for what is no engine.
std::string engine_kind(const c10::IValue& value) {
  if (!value.isCustomClass()) {
    return "";
  }
  const c10::ClassTypePtr type = value.toObjectRef().type();
  const std::string name = type->name()->name();
  return name == "TRTEngineExtension" || name == "OpenVINOEngineExtension" ? name : "";
}

}  // namespace

bool ModelEngine::can_run() const {
  return call(object, "can_run").toBool();
}

std::string ModelEngine::why_not() const {
  return call(object, "why_not").toStringRef();
}

std::map<std::string, int64_t> ModelEngine::counters() const {
  std::map<std::string, int64_t> counted;
  for (const auto& item : call(object, "counters").toGenericDict()) {
    counted[item.key().toStringRef()] = item.value().toInt();
  }
  return counted;
}

std::vector<ModelEngine> find_engines(const torch::jit::Module& model) {
  std::vector<ModelEngine> engines;
  for (const auto& attribute : model.named_attributes(/*recurse=*/true)) {
    const std::string kind = engine_kind(attribute.value);
    if (!kind.empty()) {
      engines.push_back({attribute.name, kind, attribute.value});
    }
  }
  return engines;
}

torch::Device find_device(const torch::jit::Module& model, const std::vector<ModelEngine>& engines) {
  for (const ModelEngine& engine : engines) {
    if (engine.kind == "TRTEngineExtension" && engine.can_run()) {
      // Loading put plan and engine on the same GPU, and the model's other tensors as well.
      for (const torch::Tensor& tensor : model.parameters()) {
        if (tensor.is_cuda()) {
          return tensor.device();
        }
      }
      return torch::Device(torch::kCUDA, 0);
    }
  }
  for (const torch::Tensor& tensor : model.parameters()) {
    return tensor.device();
  }
  for (const torch::Tensor& tensor : model.buffers()) {
    return tensor.device();
  }
  return torch::kCPU;
}
