#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

#include "retinanet/heads.h"

namespace torch_trt_ext::plugins {

/// Throws std::invalid_argument unless the inputs of these numbers are one level's scores [N, A * C, H, W] and deltas
/// [N, A * 4, H, W]. -1 stands for an extent that is not known yet.
void check_head_shapes(const std::vector<nvinfer1::Dims>& inputs, size_t scores_input, size_t deltas_input,
                       int64_t num_anchors);

/// The level whose scores have the shape, without tensors. An image extent of 0 is the grid's.
HeadLevel head_level(const nvinfer1::Dims& scores, int64_t num_anchors, int32_t stride, int32_t image_height,
                     int32_t image_width);

/// Throws std::invalid_argument naming the field unless `value` counts the floats of one anchor or more.
void require_anchor_floats(const char* name, int32_t value);

}  // namespace torch_trt_ext::plugins
