#pragma once

#include <vector>

#include "common/layer_plugin.h"
#include "common/plugin_fields.h"
#include "layers/group_norm_kernels.h"

namespace torch_trt_ext::plugins {

/// `GroupNorm`: normalizes each image's groups of channels. docs/plugins.md says what fields and tensors mean.
class GroupNormPlugin final : public LayerPlugin {
 public:
  static constexpr const char* kName = "GroupNorm";
  static const std::vector<FieldSpec>& field_specs();

  /// Throws std::invalid_argument for a field that is missing or out of its range.
  explicit GroupNormPlugin(const PluginFields& fields);

 protected:
  PluginBase* copy() const override { return new GroupNormPlugin(*this); }
  bool may_be(nvinfer1::DataType type, int32_t input, const std::vector<nvinfer1::DataType>& types) const override;
  void prepare() override;
  void check_shapes(const std::vector<nvinfer1::Dims>& inputs) const override;
  std::vector<int32_t> tactics(const std::vector<nvinfer1::Dims>& inputs) const override;
  size_t workspace_bytes(const std::vector<nvinfer1::Dims>& inputs) const override;
  cudaError_t launch(const Call& call) const override;
  std::vector<nvinfer1::PluginField> serialized_fields() const override;

 private:
  GroupNormShape shape_of(const nvinfer1::Dims& input) const;

  float eps_;
  int32_t num_groups_;
  int32_t variant_;
};

}  // namespace torch_trt_ext::plugins
