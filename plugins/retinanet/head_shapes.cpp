#include "retinanet/head_shapes.h"

#include <stdexcept>
#include <string>

#include "common/tensor_dims.h"

namespace torch_trt_ext::plugins {

using nvinfer1::Dims;

void check_head_shapes(const std::vector<Dims>& inputs, size_t scores_input, size_t deltas_input, int64_t num_anchors) {
  const Dims& scores = inputs[scores_input];
  const Dims& deltas = inputs[deltas_input];
  const std::string scores_name = "input " + std::to_string(scores_input) + " (scores)";
  const std::string deltas_name = "input " + std::to_string(deltas_input) + " (deltas)";
  if (scores.nbDims != 4 || deltas.nbDims != 4) {
    throw std::invalid_argument(scores_name + " and " + deltas_name + " must be [N, A * C, H, W] and [N, A * 4, H, W]" +
                                ", got " + describe(scores) + " and " + describe(deltas));
  }
  if (scores.d[1] == 0 || (scores.d[1] > 0 && scores.d[1] % num_anchors != 0)) {
    throw std::invalid_argument(scores_name + " must have num_classes channels an anchor, a multiple of " +
                                std::to_string(num_anchors) + ", got " + describe(scores));
  }
  if (differ(deltas.d[1], 4 * num_anchors)) {
    throw std::invalid_argument(deltas_name + " must have 4 channels an anchor, " + std::to_string(4 * num_anchors) +
                                ", got " + describe(deltas));
  }
  for (const int32_t axis : {0, 2, 3}) {
    if (differ(scores.d[axis], deltas.d[axis])) {
      throw std::invalid_argument(scores_name + " and " + deltas_name + " must have the same N, H and W, got " +
                                  describe(scores) + " and " + describe(deltas));
    }
  }
  if (scores.d[1] > 0 && scores.d[2] > 0 && scores.d[3] > 0 &&
      scores.d[1] > kMaxScoresPerImage / scores.d[2] / scores.d[3]) {
    throw std::invalid_argument(scores_name + " must have at most " + std::to_string(kMaxScoresPerImage) +
                                " elements an image, got " + describe(scores));
  }
}

HeadLevel head_level(const Dims& scores, int64_t num_anchors, int32_t stride, int32_t image_height,
                     int32_t image_width) {
  HeadLevel level{};
  level.num_anchors = num_anchors;
  level.num_classes = scores.d[1] / num_anchors;
  level.height = scores.d[2];
  level.width = scores.d[3];
  level.stride = stride;
  level.image_height = static_cast<float>(image_height > 0 ? image_height : level.height * stride);
  level.image_width = static_cast<float>(image_width > 0 ? image_width : level.width * stride);
  return level;
}

void require_anchor_floats(const char* name, int32_t value) {
  if (value < 4 || value % 4 != 0) {
    throw std::invalid_argument("field '" + std::string(name) +
                                "' counts the floats in 'anchors' and must be a multiple of 4, 4 an anchor, got " +
                                std::to_string(value));
  }
}

}  // namespace torch_trt_ext::plugins
