#include "ops/retinanet_nms.h"

#include <openvino/core/parallel.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "ops/score_order.h"

namespace torch_trt_ext::ops {
namespace {

/// Below this many candidates in a batch, handing images to other threads costs more than it saves.
constexpr int64_t kParallelCandidates = 1 << 13;

}  // namespace

/// One image's inputs.
struct RetinaNetNMS::Candidates {
  const float* scores;
  const float* boxes;
  const float* classes;
  int64_t count;
};

/// Where one image's outputs go.
struct RetinaNetNMS::Detections {
  float* scores;
  float* boxes;
  float* classes;
};

void RetinaNetNMS::validate_and_infer_types() {
  NODE_VALIDATION_CHECK(this, get_input_size() == 3, "needs 3 inputs, scores, boxes and classes, got ",
                        get_input_size());
  NODE_VALIDATION_CHECK(this, std::isfinite(nms_thresh_), "attribute nms_thresh must be finite, got ", nms_thresh_);
  NODE_VALIDATION_CHECK(
      this, max_detections_per_image_ >= 1 && max_detections_per_image_ <= std::numeric_limits<int32_t>::max(),
      "attribute max_detections_per_image must be in [1, 2^31), got ", max_detections_per_image_);
  parse_box_convention(this, box_convention_);

  static const char* const kNames[] = {"scores", "boxes", "classes"};
  ov::Dimension batch = ov::Dimension::dynamic();
  ov::Dimension count = ov::Dimension::dynamic();
  for (size_t i = 0; i < 3; ++i) {
    const ov::PartialShape& shape = get_input_partial_shape(i);
    NODE_VALIDATION_CHECK(this, get_input_element_type(i).compatible(ov::element::f32), "input ", kNames[i],
                          " must be f32, got ", get_input_element_type(i));
    NODE_VALIDATION_CHECK(this, shape.rank().compatible(4), "input ", kNames[i], " must be [N, channels, 1, 1], got ",
                          shape);
    if (shape.rank().is_dynamic()) {
      continue;
    }
    NODE_VALIDATION_CHECK(this, shape[2].compatible(1) && shape[3].compatible(1), "input ", kNames[i],
                          " must be [N, channels, 1, 1], got ", shape);
    NODE_VALIDATION_CHECK(this, ov::Dimension::merge(batch, batch, shape[0]), "inputs must have one N, got ",
                          get_input_partial_shape(0), ", ", get_input_partial_shape(1), " and ",
                          get_input_partial_shape(2));
    if (shape[1].is_static()) {
      const int64_t channels = shape[1].get_length();
      const int64_t parts = i == 1 ? 4 : 1;
      NODE_VALIDATION_CHECK(this, channels % parts == 0 && ov::Dimension::merge(count, count, channels / parts),
                            "inputs must have M, 4 * M and M channels, got ", get_input_partial_shape(0), ", ",
                            get_input_partial_shape(1), " and ", get_input_partial_shape(2));
    }
  }
  set_output_size(3);
  set_output_type(0, ov::element::f32, {batch, max_detections_per_image_, 1, 1});
  set_output_type(1, ov::element::f32, {batch, 4 * max_detections_per_image_, 1, 1});
  set_output_type(2, ov::element::f32, {batch, max_detections_per_image_, 1, 1});
}

std::shared_ptr<ov::Node> RetinaNetNMS::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  check_new_args_count(this, inputs);
  auto clone = std::make_shared<RetinaNetNMS>();
  clone->nms_thresh_ = nms_thresh_;
  clone->max_detections_per_image_ = max_detections_per_image_;
  clone->box_convention_ = box_convention_;
  clone->set_arguments(inputs);
  clone->constructor_validate_and_infer_types();
  return clone;
}

bool RetinaNetNMS::visit_attributes(ov::AttributeVisitor& visitor) {
  visitor.on_attribute("nms_thresh", nms_thresh_);
  visitor.on_attribute("max_detections_per_image", max_detections_per_image_);
  visitor.on_attribute("box_convention", box_convention_);
  return true;
}

bool RetinaNetNMS::has_evaluate() const {
  return true;
}

void RetinaNetNMS::suppress(const Candidates& candidates, const Detections& detections,
                            BoxConvention convention) const {
  std::vector<uint64_t> keys;
  keys.reserve(static_cast<size_t>(candidates.count));
  for (int64_t i = 0; i < candidates.count; ++i) {
    const float score = candidates.scores[i];
    if (score > 0.0f && std::isfinite(score)) {
      keys.push_back(score_key(score, static_cast<uint32_t>(i)));
    }
  }
  std::sort(keys.begin(), keys.end(), std::greater<>());

  struct Kept {
    Box box;
    float area;
    float class_id;
  };
  const float offset = width_offset(convention);
  const size_t max_detections = static_cast<size_t>(max_detections_per_image_);
  std::vector<Kept> kept;
  kept.reserve(std::min(max_detections, keys.size()));
  for (const uint64_t key : keys) {
    if (kept.size() == max_detections) {
      break;
    }
    const size_t index = key_index(key);
    const float* const corners = candidates.boxes + index * 4;
    const Box box{corners[0], corners[1], corners[2], corners[3]};
    const float area = box_area(box, offset);
    const float class_id = candidates.classes[index];
    const bool suppressed = std::any_of(kept.begin(), kept.end(), [&](const Kept& other) {
      return other.class_id == class_id && overlaps(other.box, other.area, box, area, offset, nms_thresh_);
    });
    if (suppressed) {
      continue;
    }
    const size_t slot = kept.size();
    detections.scores[slot] = key_score(key);
    std::copy(corners, corners + 4, detections.boxes + slot * 4);
    detections.classes[slot] = class_id;
    kept.push_back(Kept{box, area, class_id});
  }
  std::fill(detections.scores + kept.size(), detections.scores + max_detections, 0.0f);
  std::fill(detections.boxes + kept.size() * 4, detections.boxes + max_detections * 4, 0.0f);
  std::fill(detections.classes + kept.size(), detections.classes + max_detections, 0.0f);
}

bool RetinaNetNMS::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  const ov::Shape& shape = inputs[0].get_shape();
  OPENVINO_ASSERT(shape.size() == 4 && shape[2] == 1 && shape[3] == 1 && inputs[2].get_shape() == shape &&
                      inputs[1].get_shape() == (ov::Shape{shape[0], 4 * shape[1], 1, 1}),
                  "RetinaNetNMS needs scores [N, M, 1, 1], boxes [N, 4 * M, 1, 1] and classes [N, M, 1, 1], got ",
                  shape, ", ", inputs[1].get_shape(), " and ", inputs[2].get_shape());
  OPENVINO_ASSERT(shape[1] <= std::numeric_limits<uint32_t>::max(),
                  "RetinaNetNMS takes fewer than 2^32 candidates an image, got ", shape);
  const size_t max_detections = static_cast<size_t>(max_detections_per_image_);
  outputs[0].set_shape({shape[0], max_detections, 1, 1});
  outputs[1].set_shape({shape[0], 4 * max_detections, 1, 1});
  outputs[2].set_shape({shape[0], max_detections, 1, 1});

  const BoxConvention convention = parse_box_convention(this, box_convention_);
  const int64_t batch = static_cast<int64_t>(shape[0]);
  const int64_t count = static_cast<int64_t>(shape[1]);
  const float* const scores = inputs[0].data<float>();
  const float* const boxes = inputs[1].data<float>();
  const float* const classes = inputs[2].data<float>();
  float* const out_scores = outputs[0].data<float>();
  float* const out_boxes = outputs[1].data<float>();
  float* const out_classes = outputs[2].data<float>();
  const auto suppress_image = [&](int64_t image) {
    const int64_t in = image * count;
    const int64_t out = image * max_detections_per_image_;
    suppress(Candidates{scores + in, boxes + in * 4, classes + in, count},
             Detections{out_scores + out, out_boxes + out * 4, out_classes + out}, convention);
  };
  if (batch > 1 && batch * count >= kParallelCandidates) {
    ov::parallel_for(batch, suppress_image);
  } else {
    for (int64_t image = 0; image < batch; ++image) {
      suppress_image(image);
    }
  }
  return true;
}

}  // namespace torch_trt_ext::ops
