#pragma once

#include <NvInferRuntime.h>

#include <vector>

#include "common/logging.h"
#include "common/plugin_fields.h"

namespace torch_trt_ext::plugins {

/// Creator of `Plugin`, which has `kName`, `kVersion`, `field_specs()` and a constructor from PluginFields.
///
/// A bad field makes createPlugin return null and log a message that names it.
template <class Plugin>
class PluginCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  PluginCreator() {
    for (const FieldSpec& spec : Plugin::field_specs()) {
      fields_.emplace_back(spec.name, nullptr, spec.type, spec.length == kAnyLength ? 0 : spec.length);
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }

  nvinfer1::IPluginV3* createPlugin(const char* /*name*/, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase /*phase*/) noexcept override {
    nvinfer1::IPluginV3* plugin = nullptr;
    run_guarded(Plugin::kName, [&] { plugin = new Plugin(PluginFields(fields, Plugin::field_specs())); });
    return plugin;
  }

  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return Plugin::kName; }
  const char* getPluginVersion() const noexcept override { return Plugin::kVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace torch_trt_ext::plugins
