#include "ops/retinanet_decode.h"

#include <openvino/core/parallel.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "ops/score_order.h"

namespace torch_trt_ext::ops {
namespace {

/// Below this many scores in a batch, handing images to other threads costs more than it saves.
constexpr int64_t kParallelScores = 1 << 18;

/// Scores that are compared with the threshold at once before any is looked at by itself.
constexpr int64_t kBlock = 64;

std::vector<int32_t> to_bits(const std::vector<float>& values) {
  std::vector<int32_t> bits(values.size());
  std::copy_n(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float),
              reinterpret_cast<char*>(bits.data()));
  return bits;
}

std::vector<float> from_bits(const std::vector<int32_t>& bits) {
  std::vector<float> values(bits.size());
  std::copy_n(reinterpret_cast<const char*>(bits.data()), bits.size() * sizeof(float),
              reinterpret_cast<char*>(values.data()));
  return values;
}

bool is_float_type(const ov::element::Type& type) {
  return type.is_dynamic() || type == ov::element::f32 || type == ov::element::f16;
}

}  // namespace

/// Sizes of one call, checked against each other.
struct RetinaNetDecode::Geometry {
  int64_t batch;
  int64_t num_anchors;
  int64_t num_classes;
  int64_t height;
  int64_t width;
  DecodeFrame frame;
};

void RetinaNetDecode::check_attributes() const {
  NODE_VALIDATION_CHECK(this, topk_candidates_ >= 1 && topk_candidates_ <= std::numeric_limits<int32_t>::max(),
                        "attribute topk_candidates must be in [1, 2^31), got ", topk_candidates_);
  NODE_VALIDATION_CHECK(this, std::isfinite(score_thresh_), "attribute score_thresh must be finite, got ",
                        score_thresh_);
  NODE_VALIDATION_CHECK(this, stride_ >= 1, "attribute stride must be at least 1 pixel, got ", stride_);
  NODE_VALIDATION_CHECK(this, !anchors_.empty() && anchors_.size() % 4 == 0,
                        "attribute anchors must have 4 numbers an anchor, got ", anchors_.size(), " numbers");
  NODE_VALIDATION_CHECK(this, num_anchors_ == 0 || num_anchors_ == static_cast<int64_t>(anchors_.size()),
                        "attribute num_anchors must be how many numbers anchors has, ", anchors_.size(), ", got ",
                        num_anchors_);
  NODE_VALIDATION_CHECK(this, image_height_ >= 0, "attribute image_height must not be negative, got ", image_height_);
  NODE_VALIDATION_CHECK(this, image_width_ >= 0, "attribute image_width must not be negative, got ", image_width_);
  parse_box_convention(this, box_convention_);
}

void RetinaNetDecode::validate_and_infer_types() {
  NODE_VALIDATION_CHECK(this, get_input_size() == 2, "needs 2 inputs, scores and deltas, got ", get_input_size());
  check_attributes();
  const int64_t num_anchors = static_cast<int64_t>(anchors_.size()) / 4;
  static const char* const kNames[] = {"scores", "deltas"};
  for (size_t i = 0; i < 2; ++i) {
    NODE_VALIDATION_CHECK(this, is_float_type(get_input_element_type(i)), "input ", kNames[i],
                          " must be f32 or f16, got ", get_input_element_type(i));
    NODE_VALIDATION_CHECK(this, get_input_partial_shape(i).rank().compatible(4), "input ", kNames[i],
                          " must be [N, channels, H, W], got ", get_input_partial_shape(i));
  }
  ov::Dimension batch = ov::Dimension::dynamic();
  const ov::PartialShape& scores = get_input_partial_shape(0);
  const ov::PartialShape& deltas = get_input_partial_shape(1);
  if (scores.rank().is_static()) {
    batch = scores[0];
    NODE_VALIDATION_CHECK(this, scores[1].is_dynamic() || scores[1].get_length() % num_anchors == 0,
                          "input scores must have a multiple of ", num_anchors,
                          " channels, one a class for each anchor in attribute anchors, got ", scores);
  }
  if (deltas.rank().is_static()) {
    NODE_VALIDATION_CHECK(this, deltas[1].compatible(4 * num_anchors), "input deltas must have ", 4 * num_anchors,
                          " channels, 4 for each anchor in attribute anchors, got ", deltas);
    NODE_VALIDATION_CHECK(this, ov::Dimension::merge(batch, batch, deltas[0]),
                          "inputs scores and deltas must have one N, got ", scores, " and ", deltas);
  }
  if (scores.rank().is_static() && deltas.rank().is_static()) {
    NODE_VALIDATION_CHECK(this, scores[2].compatible(deltas[2]) && scores[3].compatible(deltas[3]),
                          "inputs scores and deltas must have one H and W, got ", scores, " and ", deltas);
  }
  set_output_size(3);
  set_output_type(0, ov::element::f32, {batch, topk_candidates_, 1, 1});
  set_output_type(1, ov::element::f32, {batch, 4 * topk_candidates_, 1, 1});
  set_output_type(2, ov::element::f32, {batch, topk_candidates_, 1, 1});
}

std::shared_ptr<ov::Node> RetinaNetDecode::clone_with_new_inputs(const ov::OutputVector& inputs) const {
  check_new_args_count(this, inputs);
  auto clone = std::make_shared<RetinaNetDecode>();
  clone->topk_candidates_ = topk_candidates_;
  clone->score_thresh_ = score_thresh_;
  clone->stride_ = stride_;
  clone->num_anchors_ = num_anchors_;
  clone->anchors_ = anchors_;
  clone->box_convention_ = box_convention_;
  clone->image_height_ = image_height_;
  clone->image_width_ = image_width_;
  clone->set_arguments(inputs);
  clone->constructor_validate_and_infer_types();
  return clone;
}

bool RetinaNetDecode::visit_attributes(ov::AttributeVisitor& visitor) {
  visitor.on_attribute("topk_candidates", topk_candidates_);
  visitor.on_attribute("score_thresh", score_thresh_);
  visitor.on_attribute("stride", stride_);
  visitor.on_attribute("num_anchors", num_anchors_);
  // OpenVINO 2026.4.1 writes lists of floats to an IR with six digits, so the exact anchors go beside them as integers.
  const std::vector<int32_t> old_bits = to_bits(anchors_);
  std::vector<int32_t> bits = old_bits;
  visitor.on_attribute("anchors", anchors_);
  visitor.on_attribute("anchor_bits", bits);
  if (bits != old_bits) {
    anchors_ = from_bits(bits);
  }
  visitor.on_attribute("box_convention", box_convention_);
  visitor.on_attribute("image_height", image_height_);
  visitor.on_attribute("image_width", image_width_);
  return true;
}

bool RetinaNetDecode::has_evaluate() const {
  return true;
}

RetinaNetDecode::Geometry RetinaNetDecode::make_geometry(const ov::Shape& scores, const ov::Shape& deltas) const {
  const size_t num_anchors = anchors_.size() / 4;
  OPENVINO_ASSERT(scores.size() == 4 && deltas.size() == 4 && scores[0] == deltas[0] && scores[2] == deltas[2] &&
                      scores[3] == deltas[3] && scores[1] % num_anchors == 0 && deltas[1] == 4 * num_anchors,
                  "RetinaNetDecode needs scores [N, ", num_anchors, " * C, H, W] and deltas [N, ", 4 * num_anchors,
                  ", H, W], got ", scores, " and ", deltas);
  OPENVINO_ASSERT(scores[1] * scores[2] * scores[3] <= std::numeric_limits<uint32_t>::max(),
                  "RetinaNetDecode takes fewer than 2^32 scores an image, got ", scores);
  Geometry geometry;
  geometry.batch = static_cast<int64_t>(scores[0]);
  geometry.num_anchors = static_cast<int64_t>(num_anchors);
  geometry.num_classes = static_cast<int64_t>(scores[1] / num_anchors);
  geometry.height = static_cast<int64_t>(scores[2]);
  geometry.width = static_cast<int64_t>(scores[3]);
  geometry.frame.convention = parse_box_convention(this, box_convention_);
  // "retinanet_examples" clips to the grid, whatever the image's size.
  const bool clips_to_image = geometry.frame.convention == BoxConvention::kTorchvision;
  geometry.frame.clip_width =
      static_cast<float>(clips_to_image && image_width_ > 0 ? image_width_ : geometry.width * stride_);
  geometry.frame.clip_height =
      static_cast<float>(clips_to_image && image_height_ > 0 ? image_height_ : geometry.height * stride_);
  return geometry;
}

/// The keys (score_key) of an image's best candidates, best first, at most topk_candidates.
template <typename Score>
std::vector<uint64_t> RetinaNetDecode::select_candidates(const Score* scores, int64_t num_scores) const {
  const size_t topk = static_cast<size_t>(topk_candidates_);
  // Indices rise, so once topk candidates are held, a later one must beat the worst of them and not just equal it.
  float cutoff = score_thresh_;
  std::vector<uint64_t> keys;
  const size_t capacity = 2 * std::min(topk, static_cast<size_t>(num_scores)) + 1024;
  keys.reserve(capacity);
  for (int64_t start = 0; start < num_scores; start += kBlock) {
    const int64_t end = std::min(start + kBlock, num_scores);
    int any = 0;
    for (int64_t i = start; i < end; ++i) {
      any |= static_cast<float>(scores[i]) > cutoff;
    }
    if (any == 0) {
      continue;
    }
    for (int64_t i = start; i < end; ++i) {
      const float score = static_cast<float>(scores[i]);
      if (score > cutoff && std::isfinite(score)) {
        keys.push_back(score_key(score, static_cast<uint32_t>(i)));
      }
    }
    if (keys.size() + kBlock > capacity) {
      std::nth_element(keys.begin(), keys.begin() + topk - 1, keys.end(), std::greater<>());
      keys.resize(topk);
      cutoff = key_score(keys.back());
    }
  }
  if (keys.size() > topk) {
    std::nth_element(keys.begin(), keys.begin() + topk - 1, keys.end(), std::greater<>());
    keys.resize(topk);
  }
  std::sort(keys.begin(), keys.end(), std::greater<>());
  return keys;
}

template <typename Score, typename Delta>
void RetinaNetDecode::decode_batch(ov::TensorVector& outputs, const ov::TensorVector& inputs,
                                   const Geometry& geometry) const {
  const int64_t cells = geometry.height * geometry.width;
  const int64_t num_scores = geometry.num_anchors * geometry.num_classes * cells;
  const int64_t num_deltas = geometry.num_anchors * 4 * cells;
  const Score* const scores = static_cast<const Score*>(inputs[0].data());
  const Delta* const deltas = static_cast<const Delta*>(inputs[1].data());
  float* const out_scores = outputs[0].data<float>();
  float* const out_boxes = outputs[1].data<float>();
  float* const out_classes = outputs[2].data<float>();
  const int64_t topk = topk_candidates_;
  const float stride = static_cast<float>(stride_);

  const auto decode_image = [&](int64_t image) {
    const std::vector<uint64_t> keys = select_candidates(scores + image * num_scores, num_scores);
    const Delta* const image_deltas = deltas + image * num_deltas;
    float* const image_scores = out_scores + image * topk;
    float* const image_boxes = out_boxes + image * topk * 4;
    float* const image_classes = out_classes + image * topk;
    const int64_t count = static_cast<int64_t>(keys.size());
    for (int64_t k = 0; k < count; ++k) {
      const int64_t index = key_index(keys[k]);
      const int64_t cell = index % cells;
      const int64_t channel = index / cells;
      const int64_t anchor_index = channel / geometry.num_classes;
      const float x = static_cast<float>(cell % geometry.width) * stride;
      const float y = static_cast<float>(cell / geometry.width) * stride;
      const float* const base = &anchors_[anchor_index * 4];
      float box_deltas[4];
      for (int64_t d = 0; d < 4; ++d) {
        box_deltas[d] = static_cast<float>(image_deltas[(anchor_index * 4 + d) * cells + cell]);
      }
      const Box box = decode_box(geometry.frame, Box{x + base[0], y + base[1], x + base[2], y + base[3]}, box_deltas);
      image_scores[k] = key_score(keys[k]);
      image_classes[k] = static_cast<float>(channel % geometry.num_classes);
      image_boxes[k * 4] = box.x1;
      image_boxes[k * 4 + 1] = box.y1;
      image_boxes[k * 4 + 2] = box.x2;
      image_boxes[k * 4 + 3] = box.y2;
    }
    std::fill(image_scores + count, image_scores + topk, 0.0f);
    std::fill(image_boxes + count * 4, image_boxes + topk * 4, 0.0f);
    std::fill(image_classes + count, image_classes + topk, 0.0f);
  };

  if (geometry.batch > 1 && geometry.batch * num_scores >= kParallelScores) {
    ov::parallel_for(geometry.batch, decode_image);
  } else {
    for (int64_t image = 0; image < geometry.batch; ++image) {
      decode_image(image);
    }
  }
}

bool RetinaNetDecode::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  const Geometry geometry = make_geometry(inputs[0].get_shape(), inputs[1].get_shape());
  const size_t batch = static_cast<size_t>(geometry.batch);
  const size_t topk = static_cast<size_t>(topk_candidates_);
  outputs[0].set_shape({batch, topk, 1, 1});
  outputs[1].set_shape({batch, 4 * topk, 1, 1});
  outputs[2].set_shape({batch, topk, 1, 1});
  const bool half_scores = inputs[0].get_element_type() == ov::element::f16;
  const bool half_deltas = inputs[1].get_element_type() == ov::element::f16;
  if (half_scores && half_deltas) {
    decode_batch<ov::float16, ov::float16>(outputs, inputs, geometry);
  } else if (half_scores) {
    decode_batch<ov::float16, float>(outputs, inputs, geometry);
  } else if (half_deltas) {
    decode_batch<float, ov::float16>(outputs, inputs, geometry);
  } else {
    decode_batch<float, float>(outputs, inputs, geometry);
  }
  return true;
}

}  // namespace torch_trt_ext::ops
