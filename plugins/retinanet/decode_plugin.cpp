#include "retinanet/decode_plugin.h"

#include <stdexcept>

#include "common/logging.h"
#include "retinanet/head_shapes.h"

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char* kTopkCandidates = "topk_candidates";
constexpr const char* kScoreThresh = "score_thresh";
constexpr const char* kStride = "stride";
constexpr const char* kNumAnchors = "num_anchors";
constexpr const char* kAnchors = "anchors";
constexpr const char* kBoxConvention = "box_convention";
constexpr const char* kImageHeight = "image_height";
constexpr const char* kImageWidth = "image_width";

}  // namespace

const std::vector<FieldSpec>& DecodePlugin::field_specs() {
  static const std::vector<FieldSpec> specs = {
      {kTopkCandidates, PluginFieldType::kINT32, 1},
      {kScoreThresh, PluginFieldType::kFLOAT32, 1},
      {kStride, PluginFieldType::kINT32, 1},
      {kNumAnchors, PluginFieldType::kINT32, 1},
      {kAnchors, PluginFieldType::kFLOAT32, kAnyLength},
      {kBoxConvention, PluginFieldType::kCHAR, kAnyLength},
      {kImageHeight, PluginFieldType::kINT32, 1},
      {kImageWidth, PluginFieldType::kINT32, 1},
  };
  return specs;
}

DecodePlugin::DecodePlugin(const PluginFields& fields)
    : RetinaNetPlugin(kName, 2, false),
      topk_candidates_(fields.read_int32(kTopkCandidates)),
      score_thresh_(fields.read_float(kScoreThresh)),
      stride_(fields.read_int32(kStride)),
      num_anchors_field_(fields.read_int32(kNumAnchors)),
      anchors_(fields.read_floats(kAnchors)),
      convention_name_(fields.read_string(kBoxConvention, box_convention_name(BoxConvention::kRetinanetExamples))),
      convention_(parse_box_convention(convention_name_)),
      image_height_(fields.read_int32(kImageHeight, 0)),
      image_width_(fields.read_int32(kImageWidth, 0)) {
  require_at_least(kTopkCandidates, topk_candidates_, 1);
  require_fraction(kScoreThresh, score_thresh_);
  require_at_least(kStride, stride_, 1);
  require_at_least(kImageHeight, image_height_, 0);
  require_at_least(kImageWidth, image_width_, 0);
  require_anchor_floats(kNumAnchors, num_anchors_field_);
  if (anchors_.size() != static_cast<size_t>(num_anchors_field_)) {
    throw std::invalid_argument("field 'anchors' must be as long as 'num_anchors' says, " +
                                std::to_string(num_anchors_field_) + ", got " + std::to_string(anchors_.size()));
  }
}

DecodePlugin::DecodePlugin(const DecodePlugin& other)
    : RetinaNetPlugin(other),
      topk_candidates_(other.topk_candidates_),
      score_thresh_(other.score_thresh_),
      stride_(other.stride_),
      num_anchors_field_(other.num_anchors_field_),
      anchors_(other.anchors_),
      convention_name_(other.convention_name_),
      convention_(other.convention_),
      image_height_(other.image_height_),
      image_width_(other.image_width_) {}

void DecodePlugin::prepare() {
  // Done in attachToContext; the builder may run a plugin that it never attached.
  if (device_anchors_.data() == nullptr) {
    device_anchors_.upload(anchors_);
  }
}

void DecodePlugin::check_shapes(const std::vector<Dims>& inputs) const {
  check_head_shapes(inputs, 0, 1, num_anchors());
}

Heads DecodePlugin::heads(const Dims& scores) const {
  Heads heads{};
  heads.batch = scores.d[0];
  heads.num_levels = 1;
  heads.levels[0] = head_level(scores, num_anchors(), stride_, image_height_, image_width_);
  return heads;
}

size_t DecodePlugin::workspace_bytes(const std::vector<Dims>& inputs) const {
  return decode_workspace_bytes(heads(inputs[0]), topk_candidates_);
}

cudaError_t DecodePlugin::launch(const Call& call) const {
  if (device_anchors_.data() == nullptr) {
    throw std::logic_error("enqueue must come after attachToContext or onShapeChange");
  }
  Heads inputs = heads(call.input_descs[0].dims);
  inputs.type = call.type;
  inputs.levels[0].scores = call.inputs[0];
  inputs.levels[0].deltas = call.inputs[1];
  inputs.levels[0].anchors = device_anchors_.data();
  const CandidateOptions options = {topk_candidates_, score_thresh_, convention_, ScoreActivation::kNone};
  return launch_decode(inputs, options, call.scores, call.boxes, call.classes, call.workspace, call.stream);
}

std::vector<PluginField> DecodePlugin::serialized_fields() const {
  return {
      {kTopkCandidates, &topk_candidates_, PluginFieldType::kINT32, 1},
      {kScoreThresh, &score_thresh_, PluginFieldType::kFLOAT32, 1},
      {kStride, &stride_, PluginFieldType::kINT32, 1},
      {kNumAnchors, &num_anchors_field_, PluginFieldType::kINT32, 1},
      {kAnchors, anchors_.data(), PluginFieldType::kFLOAT32, num_anchors_field_},
      {kBoxConvention, convention_name_.data(), PluginFieldType::kCHAR, static_cast<int32_t>(convention_name_.size())},
      {kImageHeight, &image_height_, PluginFieldType::kINT32, 1},
      {kImageWidth, &image_width_, PluginFieldType::kINT32, 1},
  };
}

}  // namespace torch_trt_ext::plugins
