#pragma once

#include <openvino/core/node.hpp>

#include <cmath>
#include <string>

namespace torch_trt_ext::ops {

/// How widths are counted, deltas clamped and boxes clipped.
enum class BoxConvention { kRetinanetExamples, kTorchvision, kDetectron2 };

/// Reads the attribute `box_convention` of `node`; ov::NodeValidationFailure when it is none of the three.
inline BoxConvention parse_box_convention(const ov::Node* node, const std::string& word) {
  if (word == "torchvision") {
    return BoxConvention::kTorchvision;
  }
  if (word == "detectron2") {
    return BoxConvention::kDetectron2;
  }
  NODE_VALIDATION_CHECK(node, word == "retinanet_examples",
                        "attribute box_convention must be 'retinanet_examples', 'torchvision' or 'detectron2', got '",
                        word, "'");
  return BoxConvention::kRetinanetExamples;
}

/// Pixels, corner to corner.
struct Box {
  float x1;
  float y1;
  float x2;
  float y2;
};

/// The largest dw and dh that torchvision and detectron2 let through: log(1000 / 16).
constexpr float kMaxSizeDelta = 4.135166556742356f;

/// The larger (smaller) of two numbers; a number wins over NaN, as with std::fmax (std::fmin), which are slow calls.
inline float larger(float a, float b) {
  return a > b || b != b ? a : b;
}

inline float smaller(float a, float b) {
  return a < b || b != b ? a : b;
}

/// What decode_box needs beside an anchor and its deltas. Extents are in pixels.
struct DecodeFrame {
  BoxConvention convention;
  float clip_width;
  float clip_height;
};

/// Turns an anchor, already moved to its cell, and the network's four deltas (dx, dy, dw, dh) into a box.
///
/// The order of operations is that of the TensorRT plugin, so that both round alike; compile with -ffp-contract=off.
/// A number wins over NaN in every minimum and maximum, as on the GPU.
inline Box decode_box(const DecodeFrame& frame, const Box& anchor, const float deltas[4]) {
  if (frame.convention == BoxConvention::kRetinanetExamples) {
    const float width = anchor.x2 - anchor.x1 + 1.0f;
    const float height = anchor.y2 - anchor.y1 + 1.0f;
    const float center_x = deltas[0] * width + anchor.x1 + 0.5f * width;
    const float center_y = deltas[1] * height + anchor.y1 + 0.5f * height;
    const float new_width = std::exp(deltas[2]) * width;
    const float new_height = std::exp(deltas[3]) * height;
    return Box{larger(0.0f, center_x - 0.5f * new_width), larger(0.0f, center_y - 0.5f * new_height),
               smaller(center_x + 0.5f * new_width - 1.0f, frame.clip_width - 1.0f),
               smaller(center_y + 0.5f * new_height - 1.0f, frame.clip_height - 1.0f)};
  }
  const float width = anchor.x2 - anchor.x1;
  const float height = anchor.y2 - anchor.y1;
  const float center_x = deltas[0] * width + (anchor.x1 + 0.5f * width);
  const float center_y = deltas[1] * height + (anchor.y1 + 0.5f * height);
  const float new_width = std::exp(smaller(deltas[2], kMaxSizeDelta)) * width;
  const float new_height = std::exp(smaller(deltas[3], kMaxSizeDelta)) * height;
  Box box{center_x - 0.5f * new_width, center_y - 0.5f * new_height, center_x + 0.5f * new_width,
          center_y + 0.5f * new_height};
  if (frame.convention == BoxConvention::kTorchvision) {
    const auto clip = [](float value, float extent) { return smaller(larger(value, 0.0f), extent); };
    box = Box{clip(box.x1, frame.clip_width), clip(box.y1, frame.clip_height), clip(box.x2, frame.clip_width),
              clip(box.y2, frame.clip_height)};
  }
  return box;
}

/// What the convention adds to x2 - x1 to get a width.
inline float width_offset(BoxConvention convention) {
  return convention == BoxConvention::kRetinanetExamples ? 1.0f : 0.0f;
}

/// Sides count no less than 0.
inline float box_area(const Box& box, float offset) {
  return larger(0.0f, box.x2 - box.x1 + offset) * larger(0.0f, box.y2 - box.y1 + offset);
}

/// Whether the intersection of `a` and `b` over their union is greater than `threshold`; 0/0 and NaN are not.
inline bool overlaps(const Box& a, float area_a, const Box& b, float area_b, float offset, float threshold) {
  const float width = larger(0.0f, smaller(a.x2, b.x2) - larger(a.x1, b.x1) + offset);
  const float height = larger(0.0f, smaller(a.y2, b.y2) - larger(a.y1, b.y1) + offset);
  const float intersection = width * height;
  return intersection / (area_a + area_b - intersection) > threshold;
}

}  // namespace torch_trt_ext::ops
