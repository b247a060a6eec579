#pragma once

#include <string>
#include <vector>

#include "common/plugin_fields.h"
#include "retinanet/nms_kernels.h"
#include "retinanet/retinanet_plugin.h"

namespace torch_trt_ext::plugins {

/// `RetinaNetNMS`: the candidates of all levels to detections. docs/plugins.md says what fields and tensors mean.
class NmsPlugin final : public RetinaNetPlugin {
 public:
  static constexpr const char* kName = "RetinaNetNMS";
  static const std::vector<FieldSpec>& field_specs();

  /// Throws std::invalid_argument for a field that is missing or out of its range.
  explicit NmsPlugin(const PluginFields& fields);

 protected:
  PluginBase* copy() const override { return new NmsPlugin(*this); }
  int64_t num_results() const override { return max_detections_; }
  void check_shapes(const std::vector<nvinfer1::Dims>& inputs) const override;
  size_t workspace_bytes(const std::vector<nvinfer1::Dims>& inputs) const override;
  cudaError_t launch(const Call& call) const override;
  std::vector<nvinfer1::PluginField> serialized_fields() const override;

 private:
  float nms_thresh_;
  int32_t max_detections_;
  std::string convention_name_;
  BoxConvention convention_;
};

}  // namespace torch_trt_ext::plugins
