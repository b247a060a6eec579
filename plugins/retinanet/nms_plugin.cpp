#include "retinanet/nms_plugin.h"

#include <stdexcept>

#include "common/logging.h"
#include "common/tensor_dims.h"

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char* kNmsThresh = "nms_thresh";
constexpr const char* kMaxDetections = "max_detections_per_image";
constexpr const char* kBoxConvention = "box_convention";

NmsShape nms_shape(const Dims& scores) {
  return {scores.d[0], scores.d[1]};
}

}  // namespace

const std::vector<FieldSpec>& NmsPlugin::field_specs() {
  static const std::vector<FieldSpec> specs = {
      {kNmsThresh, PluginFieldType::kFLOAT32, 1},
      {kMaxDetections, PluginFieldType::kINT32, 1},
      {kBoxConvention, PluginFieldType::kCHAR, kAnyLength},
  };
  return specs;
}

NmsPlugin::NmsPlugin(const PluginFields& fields)
    : RetinaNetPlugin(kName, 3, false),
      nms_thresh_(fields.read_float(kNmsThresh)),
      max_detections_(fields.read_int32(kMaxDetections)),
      convention_name_(fields.read_string(kBoxConvention, box_convention_name(BoxConvention::kRetinanetExamples))),
      convention_(parse_box_convention(convention_name_)) {
  require_fraction(kNmsThresh, nms_thresh_);
  require_at_least(kMaxDetections, max_detections_, 1);
}

void NmsPlugin::check_shapes(const std::vector<Dims>& inputs) const {
  const Dims& scores = inputs[0];
  const Dims& boxes = inputs[1];
  const Dims& classes = inputs[2];
  const std::string actual = ", got " + describe(scores) + ", " + describe(boxes) + " and " + describe(classes);
  const auto ends_in_ones = [](const Dims& dims) {
    return dims.nbDims == 4 && !differ(dims.d[2], 1) && !differ(dims.d[3], 1);
  };
  const int64_t num_boxes = boxes.nbDims == 4 && boxes.d[1] >= 0 ? boxes.d[1] : -1;
  if (!ends_in_ones(scores) || !ends_in_ones(boxes) || !ends_in_ones(classes) || differ(scores.d[0], boxes.d[0]) ||
      differ(scores.d[0], classes.d[0]) || differ(scores.d[1], classes.d[1]) ||
      (scores.d[1] >= 0 && differ(4 * scores.d[1], num_boxes))) {
    throw std::invalid_argument("inputs must be scores [N, M, 1, 1], boxes [N, 4 * M, 1, 1] and classes [N, M, 1, 1]" +
                                actual);
  }
  if (scores.d[1] > kMaxCandidatesPerImage) {
    throw std::invalid_argument("M must be at most " + std::to_string(kMaxCandidatesPerImage) + actual);
  }
}

size_t NmsPlugin::workspace_bytes(const std::vector<Dims>& inputs) const {
  return nms_workspace_bytes(nms_shape(inputs[0]));
}

cudaError_t NmsPlugin::launch(const Call& call) const {
  const NmsOptions options = {nms_thresh_, max_detections_, convention_};
  return launch_nms(nms_shape(call.input_descs[0].dims), options, call.type, call.inputs[0], call.inputs[1],
                    call.inputs[2], {call.scores, call.boxes, call.classes, nullptr}, call.workspace, call.stream);
}

std::vector<PluginField> NmsPlugin::serialized_fields() const {
  return {
      {kNmsThresh, &nms_thresh_, PluginFieldType::kFLOAT32, 1},
      {kMaxDetections, &max_detections_, PluginFieldType::kINT32, 1},
      {kBoxConvention, convention_name_.data(), PluginFieldType::kCHAR, static_cast<int32_t>(convention_name_.size())},
  };
}

}  // namespace torch_trt_ext::plugins
