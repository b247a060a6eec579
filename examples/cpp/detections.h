#pragma once

#include <torch/script.h>

#include <cstdint>
#include <vector>

/// One object that a detector found. Pixels, corner to corner.
struct Detection {
  int64_t label;
  float score;
  float x1;
  float y1;
  float x2;
  float y2;
};

/// Reads a detector's answer for one image: [scores, boxes, classes] with D slots each, [1, D, 1, 1], [1, 4 * D, 1, 1]
/// and [1, D, 1, 1], best first, on any device. Returns those of at least `threshold`.
///
/// Throws std::runtime_error when the answer is anything else.
std::vector<Detection> read_detections(const c10::IValue& answer, float threshold);
