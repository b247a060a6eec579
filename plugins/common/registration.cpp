#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <tuple>

#include "common/export.h"
#include "common/plugin_creator.h"
#include "common/tensorrt_library.h"
#include "layers/group_norm_plugin.h"
#include "layers/leaky_relu_plugin.h"
#include "retinanet/decode_plugin.h"
#include "retinanet/nms_plugin.h"
#include "retinanet/postprocess_plugin.h"

namespace torch_trt_ext::plugins {
namespace {

using Creators = std::array<nvinfer1::IPluginCreatorInterface*, 5>;

/// The creators live as long as the process: TensorRT's registry keeps pointers to them and is torn down after us.
const Creators& creators() {
  static const Creators& all = *new Creators{
      new PluginCreator<DecodePlugin>(), new PluginCreator<NmsPlugin>(), new PluginCreator<PostProcessPlugin>(),
      new PluginCreator<LeakyReluPlugin>(), new PluginCreator<GroupNormPlugin>()};
  return all;
}

nvinfer1::IPluginRegistry* find_registry() {
  using GetPluginRegistry = nvinfer1::IPluginRegistry* (*)();
  const auto get_registry = reinterpret_cast<GetPluginRegistry>(find_tensorrt_symbol("getPluginRegistry"));
  return get_registry == nullptr ? nullptr : get_registry();
}

using Creator = nvinfer1::IPluginCreatorV3One;

/// Whether a registry has a creator of the same name and version. IPluginRegistry::getCreator would log an error where
/// it has not.
bool has_creator(const nvinfer1::IPluginRegistry& registry, const Creator& wanted) {
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* all = registry.getAllCreators(&count);
  return std::any_of(all, all + count, [&](const nvinfer1::IPluginCreatorInterface* each) {
    if (std::strcmp(each->getInterfaceInfo().kind, wanted.getInterfaceInfo().kind) != 0) {
      return false;
    }
    const auto* creator = static_cast<const Creator*>(each);
    return std::strcmp(creator->getPluginName(), wanted.getPluginName()) == 0 &&
           std::strcmp(creator->getPluginVersion(), wanted.getPluginVersion()) == 0 &&
           std::strcmp(creator->getPluginNamespace(), wanted.getPluginNamespace()) == 0;
  });
}

/// The creators' place in the registry of this process's TensorRT.
class Registration {
 public:
  /// Registers what is not registered yet. Returns whether TensorRT was found.
  bool apply() noexcept {
    bool found = false;
    run_guarded("torch_trt_ext plugins", [&] {
      const std::lock_guard<std::mutex> lock(mutex_);
      registry_ = find_registry();
      found = registry_ != nullptr;
      for (size_t index = 0; found && index < creators().size(); ++index) {
        if (!has_creator(*registry_, *static_cast<const Creator*>(creators()[index]))) {
          registered_[index] = registry_->registerCreator(*creators()[index], "");
        }
      }
    });
    return found;
  }

  void undo() noexcept {
    run_guarded("torch_trt_ext plugins", [this] {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (size_t index = 0; index < registered_.size(); ++index) {
        if (registered_[index]) {
          registry_->deregisterCreator(*creators()[index]);
          registered_[index] = false;
        }
      }
    });
  }

 private:
  std::mutex mutex_;
  nvinfer1::IPluginRegistry* registry_ = nullptr;
  /// Which of the creators are in the registry because apply() put them there.
  std::array<bool, std::tuple_size<Creators>::value> registered_{};
};

Registration& registration() {
  static Registration& only = *new Registration();
  return only;
}

/// Opening the library is all that a program has to do, if TensorRT is there by then.
const bool registered_when_opened = registration().apply();

}  // namespace
}  // namespace torch_trt_ext::plugins

/// Registers the plugins if they are not registered, for a program that opened the library before TensorRT could be
/// found. Returns 1 when TensorRT is there, else 0. May be called any number of times, by any thread.
TTE_EXPORT int32_t torch_trt_ext_plugins_register() {
  return torch_trt_ext::plugins::registration().apply() ? 1 : 0;
}

/// IPluginRegistry::loadLibrary opens the library, which registers the creators, then asks for them here and fails if
/// one of them is registered already. So they are handed over: from now on they are where the caller puts them.
TTE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  const auto& all = torch_trt_ext::plugins::creators();
  torch_trt_ext::plugins::registration().undo();
  count = static_cast<int32_t>(all.size());
  return all.data();
}
