#pragma once

#include <vector>

#include "common/layer_plugin.h"
#include "common/plugin_fields.h"

namespace torch_trt_ext::plugins {

/// `LeakyReLU`: x where it is positive, neg_slope * x elsewhere. docs/plugins.md says what fields and tensors mean.
class LeakyReluPlugin final : public LayerPlugin {
 public:
  static constexpr const char* kName = "LeakyReLU";
  static const std::vector<FieldSpec>& field_specs();

  /// Throws std::invalid_argument for a field that is missing or out of its range.
  explicit LeakyReluPlugin(const PluginFields& fields);

 protected:
  PluginBase* copy() const override { return new LeakyReluPlugin(*this); }
  void check_shapes(const std::vector<nvinfer1::Dims>& /*inputs*/) const override {}
  cudaError_t launch(const Call& call) const override;
  std::vector<nvinfer1::PluginField> serialized_fields() const override;

 private:
  float neg_slope_;
};

}  // namespace torch_trt_ext::plugins
