#include "retinanet/postprocess_plugin.h"

#include <memory>
#include <stdexcept>

#include "common/logging.h"
#include "common/tensor_dims.h"
#include "retinanet/head_shapes.h"

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char* kTopkCandidates = "topk_candidates";
constexpr const char* kScoreThresh = "score_thresh";
constexpr const char* kNmsThresh = "nms_thresh";
constexpr const char* kMaxDetections = "max_detections_per_image";
constexpr const char* kStrides = "strides";
constexpr const char* kNumAnchors = "num_anchors";
constexpr const char* kAnchors = "anchors";
constexpr const char* kBoxConvention = "box_convention";
constexpr const char* kImageHeight = "image_height";
constexpr const char* kImageWidth = "image_width";
constexpr const char* kScoreActivation = "score_activation";
constexpr const char* kHasImageSizes = "has_image_sizes";

}  // namespace

const std::vector<FieldSpec>& PostProcessPlugin::field_specs() {
  static const std::vector<FieldSpec> specs = {
      {kTopkCandidates, PluginFieldType::kINT32, 1},
      {kScoreThresh, PluginFieldType::kFLOAT32, 1},
      {kNmsThresh, PluginFieldType::kFLOAT32, 1},
      {kMaxDetections, PluginFieldType::kINT32, 1},
      {kStrides, PluginFieldType::kINT32, kAnyLength},
      {kNumAnchors, PluginFieldType::kINT32, kAnyLength},
      {kAnchors, PluginFieldType::kFLOAT32, kAnyLength},
      {kBoxConvention, PluginFieldType::kCHAR, kAnyLength},
      {kImageHeight, PluginFieldType::kINT32, 1},
      {kImageWidth, PluginFieldType::kINT32, 1},
      {kScoreActivation, PluginFieldType::kCHAR, kAnyLength},
      {kHasImageSizes, PluginFieldType::kINT32, 1},
  };
  return specs;
}

PostProcessPlugin::PostProcessPlugin(const PluginFields& fields)
    : RetinaNetPlugin(kName, 2 * static_cast<int32_t>(fields.read_int32s(kStrides).size()), true,
                      fields.read_int32(kHasImageSizes, 0) != 0),
      topk_candidates_(fields.read_int32(kTopkCandidates)),
      score_thresh_(fields.read_float(kScoreThresh)),
      nms_thresh_(fields.read_float(kNmsThresh)),
      max_detections_(fields.read_int32(kMaxDetections)),
      strides_(fields.read_int32s(kStrides)),
      num_anchors_field_(fields.read_int32s(kNumAnchors)),
      anchors_(fields.read_floats(kAnchors)),
      convention_name_(fields.read_string(kBoxConvention, box_convention_name(BoxConvention::kRetinanetExamples))),
      convention_(parse_box_convention(convention_name_)),
      image_height_(fields.read_int32(kImageHeight, 0)),
      image_width_(fields.read_int32(kImageWidth, 0)),
      activation_name_(fields.read_string(kScoreActivation, "none")),
      activation_(parse_score_activation(activation_name_)),
      has_image_sizes_(fields.read_int32(kHasImageSizes, 0)) {
  if (strides_.empty() || strides_.size() > static_cast<size_t>(kMaxLevels)) {
    throw std::invalid_argument("field 'strides' must have one value a level, from 1 to " + std::to_string(kMaxLevels) +
                                ", got " + std::to_string(strides_.size()));
  }
  require_at_least(kTopkCandidates, topk_candidates_, 1);
  if (topk_candidates_ > kMaxCandidatesPerImage / static_cast<int64_t>(num_levels())) {
    throw std::invalid_argument("field 'topk_candidates' must be at most " + std::to_string(kMaxCandidatesPerImage) +
                                " over all levels together, got " + std::to_string(topk_candidates_) + " for each of " +
                                std::to_string(num_levels()));
  }
  require_fraction(kScoreThresh, score_thresh_);
  require_fraction(kNmsThresh, nms_thresh_);
  require_at_least(kMaxDetections, max_detections_, 1);
  require_at_least(kImageHeight, image_height_, 0);
  require_at_least(kImageWidth, image_width_, 0);
  if (has_image_sizes_ != 0 && has_image_sizes_ != 1) {
    throw std::invalid_argument("field 'has_image_sizes' must be 0 or 1, got " + std::to_string(has_image_sizes_));
  }
  if (has_image_sizes_ == 1 && convention_ != BoxConvention::kTorchvision) {
    throw std::invalid_argument(
        "field 'has_image_sizes' must be 0 unless 'box_convention' is 'torchvision', which is "
        "the one that clips to the image, got 1 with '" +
        convention_name_ + "'");
  }
  if (has_image_sizes_ == 1 && (image_height_ != 0 || image_width_ != 0)) {
    throw std::invalid_argument("fields 'image_height' and 'image_width' must be 0 where 'has_image_sizes' is 1, got " +
                                std::to_string(image_height_) + " and " + std::to_string(image_width_));
  }
  if (num_anchors_field_.size() != num_levels()) {
    throw std::invalid_argument("field 'num_anchors' must be as long as 'strides', " + std::to_string(num_levels()) +
                                ", got " + std::to_string(num_anchors_field_.size()));
  }
  size_t anchor_floats = 0;
  for (size_t level = 0; level < num_levels(); ++level) {
    require_at_least(kStrides, strides_[level], 1);
    require_anchor_floats(kNumAnchors, num_anchors_field_[level]);
    anchor_floats += static_cast<size_t>(num_anchors_field_[level]);
  }
  if (anchors_.size() != anchor_floats) {
    throw std::invalid_argument("field 'anchors' must be as long as 'num_anchors' says, " +
                                std::to_string(anchor_floats) + ", got " + std::to_string(anchors_.size()));
  }
}

PostProcessPlugin::PostProcessPlugin(const PostProcessPlugin& other)
    : RetinaNetPlugin(other),
      topk_candidates_(other.topk_candidates_),
      score_thresh_(other.score_thresh_),
      nms_thresh_(other.nms_thresh_),
      max_detections_(other.max_detections_),
      strides_(other.strides_),
      num_anchors_field_(other.num_anchors_field_),
      anchors_(other.anchors_),
      convention_name_(other.convention_name_),
      convention_(other.convention_),
      image_height_(other.image_height_),
      image_width_(other.image_width_),
      activation_name_(other.activation_name_),
      activation_(other.activation_),
      has_image_sizes_(other.has_image_sizes_) {}

void PostProcessPlugin::prepare() {
  // Done in attachToContext; the builder may run a plugin that it never attached.
  if (device_anchors_.data() == nullptr) {
    device_anchors_.upload(anchors_);
  }
}

void PostProcessPlugin::check_shapes(const std::vector<Dims>& inputs) const {
  for (size_t level = 0; level < num_levels(); ++level) {
    check_head_shapes(inputs, level, num_levels() + level, num_anchors(level));
    if (differ(inputs[level].d[0], inputs[0].d[0])) {
      throw std::invalid_argument("all inputs must have the same N, got " + describe(inputs[0]) + " and " +
                                  describe(inputs[level]));
    }
  }
  if (has_image_sizes_ == 1) {
    const Dims& sizes = inputs.back();
    if (sizes.nbDims != 2 || differ(sizes.d[0], inputs[0].d[0]) || differ(sizes.d[1], 2)) {
      throw std::invalid_argument("the last input (image sizes) must be [N, 2], height and width of each of " +
                                  std::to_string(inputs[0].d[0]) + " images, got " + describe(sizes));
    }
  }
}

HeadLevel PostProcessPlugin::level_of(size_t level, const Dims& scores) const {
  return head_level(scores, num_anchors(level), strides_[level], image_height_, image_width_);
}

size_t PostProcessPlugin::workspace_bytes(const std::vector<Dims>& inputs) const {
  Heads heads{};
  heads.batch = inputs[0].d[0];
  heads.num_levels = static_cast<int32_t>(num_levels());
  for (size_t level = 0; level < num_levels(); ++level) {
    heads.levels[level] = level_of(level, inputs[level]);
  }
  return postprocess_workspace_bytes(heads, topk_candidates_);
}

cudaError_t PostProcessPlugin::launch(const Call& call) const {
  const float* anchors = device_anchors_.data();
  if (anchors == nullptr) {
    throw std::logic_error("enqueue must come after attachToContext or onShapeChange");
  }
  Heads heads{};
  heads.type = call.type;
  heads.batch = call.input_descs[0].dims.d[0];
  heads.num_levels = static_cast<int32_t>(num_levels());
  for (size_t level = 0; level < num_levels(); ++level) {
    heads.levels[level] = level_of(level, call.input_descs[level].dims);
    heads.levels[level].scores = call.inputs[level];
    heads.levels[level].deltas = call.inputs[num_levels() + level];
    heads.levels[level].anchors = anchors;
    anchors += num_anchors_field_[level];
  }
  if (has_image_sizes_ == 1) {
    const size_t last = 2 * num_levels();
    heads.image_sizes = {call.inputs[last], call.input_descs[last].type == nvinfer1::DataType::kINT32};
  }
  const CandidateOptions candidate_options = {topk_candidates_, score_thresh_, convention_, activation_};
  const NmsOptions nms_options = {nms_thresh_, max_detections_, convention_};
  return launch_postprocess(heads, candidate_options, nms_options, {call.scores, call.boxes, call.classes, call.counts},
                            call.workspace, call.stream);
}

std::vector<PluginField> PostProcessPlugin::serialized_fields() const {
  const auto length = [](const auto& values) { return static_cast<int32_t>(values.size()); };
  return {
      {kTopkCandidates, &topk_candidates_, PluginFieldType::kINT32, 1},
      {kScoreThresh, &score_thresh_, PluginFieldType::kFLOAT32, 1},
      {kNmsThresh, &nms_thresh_, PluginFieldType::kFLOAT32, 1},
      {kMaxDetections, &max_detections_, PluginFieldType::kINT32, 1},
      {kStrides, strides_.data(), PluginFieldType::kINT32, length(strides_)},
      {kNumAnchors, num_anchors_field_.data(), PluginFieldType::kINT32, length(num_anchors_field_)},
      {kAnchors, anchors_.data(), PluginFieldType::kFLOAT32, length(anchors_)},
      {kBoxConvention, convention_name_.data(), PluginFieldType::kCHAR, length(convention_name_)},
      {kImageHeight, &image_height_, PluginFieldType::kINT32, 1},
      {kImageWidth, &image_width_, PluginFieldType::kINT32, 1},
      {kScoreActivation, activation_name_.data(), PluginFieldType::kCHAR, length(activation_name_)},
      {kHasImageSizes, &has_image_sizes_, PluginFieldType::kINT32, 1},
  };
}

}  // namespace torch_trt_ext::plugins
