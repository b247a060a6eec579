#pragma once

#include <string>
#include <vector>

#include "common/device_floats.h"
#include "common/plugin_fields.h"
#include "retinanet/postprocess_kernels.h"
#include "retinanet/retinanet_plugin.h"

namespace torch_trt_ext::plugins {

/// `RetinaNetPostProcess`: the heads of all levels to detections. docs/plugins.md says what fields and tensors mean.
///
/// The anchors are copied to the device once for each execution context, when it is created, and freed with it.
class PostProcessPlugin final : public RetinaNetPlugin {
 public:
  static constexpr const char* kName = "RetinaNetPostProcess";
  static const std::vector<FieldSpec>& field_specs();

  /// Throws std::invalid_argument for a field that is missing or out of its range.
  explicit PostProcessPlugin(const PluginFields& fields);
  /// Shares no device memory with `other`.
  PostProcessPlugin(const PostProcessPlugin& other);

 protected:
  PluginBase* copy() const override { return new PostProcessPlugin(*this); }
  int64_t num_results() const override { return max_detections_; }
  void check_shapes(const std::vector<nvinfer1::Dims>& inputs) const override;
  size_t workspace_bytes(const std::vector<nvinfer1::Dims>& inputs) const override;
  void prepare() override;
  cudaError_t launch(const Call& call) const override;
  std::vector<nvinfer1::PluginField> serialized_fields() const override;

 private:
  size_t num_levels() const { return strides_.size(); }
  int64_t num_anchors(size_t level) const { return num_anchors_field_[level] / 4; }
  /// The level of the scores that have the shape, without tensors.
  HeadLevel level_of(size_t level, const nvinfer1::Dims& scores) const;

  int32_t topk_candidates_;
  float score_thresh_;
  float nms_thresh_;
  int32_t max_detections_;
  std::vector<int32_t> strides_;
  /// The field of this name: the number of floats in `anchors_` of each level.
  std::vector<int32_t> num_anchors_field_;
  std::vector<float> anchors_;
  std::string convention_name_;
  BoxConvention convention_;
  int32_t image_height_;
  int32_t image_width_;
  std::string activation_name_;
  ScoreActivation activation_;
  int32_t has_image_sizes_;
  DeviceFloats device_anchors_;
};

}  // namespace torch_trt_ext::plugins
