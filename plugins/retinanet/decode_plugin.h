#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/device_floats.h"
#include "common/plugin_fields.h"
#include "retinanet/decode_kernels.h"
#include "retinanet/retinanet_plugin.h"

namespace torch_trt_ext::plugins {

/// `RetinaNetDecode`: one level's heads to its best candidates. docs/plugins.md says what fields and tensors mean.
///
/// The anchors are copied to the device once for each execution context, when it is created, and freed with it.
class DecodePlugin final : public RetinaNetPlugin {
 public:
  static constexpr const char* kName = "RetinaNetDecode";
  static const std::vector<FieldSpec>& field_specs();

  /// Throws std::invalid_argument for a field that is missing or out of its range.
  explicit DecodePlugin(const PluginFields& fields);
  /// Shares no device memory with `other`.
  DecodePlugin(const DecodePlugin& other);

 protected:
  PluginBase* copy() const override { return new DecodePlugin(*this); }
  int64_t num_results() const override { return topk_candidates_; }
  void check_shapes(const std::vector<nvinfer1::Dims>& inputs) const override;
  size_t workspace_bytes(const std::vector<nvinfer1::Dims>& inputs) const override;
  void prepare() override;
  cudaError_t launch(const Call& call) const override;
  std::vector<nvinfer1::PluginField> serialized_fields() const override;

 private:
  /// Without the tensors' addresses.
  Heads heads(const nvinfer1::Dims& scores) const;
  int64_t num_anchors() const { return static_cast<int64_t>(anchors_.size()) / 4; }

  int32_t topk_candidates_;
  float score_thresh_;
  int32_t stride_;
  /// The field of this name: the number of floats in `anchors_`.
  int32_t num_anchors_field_;
  std::vector<float> anchors_;
  std::string convention_name_;
  BoxConvention convention_;
  int32_t image_height_;
  int32_t image_width_;
  DeviceFloats device_anchors_;
};

}  // namespace torch_trt_ext::plugins
