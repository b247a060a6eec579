#pragma once

#include <cstdint>

#include "common/element_type.h"
#include "retinanet/box_convention.h"
#include "retinanet/score_activation.h"

namespace torch_trt_ext::plugins {

/// Levels that one call takes: their table is a kernel's argument.
constexpr int32_t kMaxLevels = 8;

/// A candidate's index is 32 bits of its key, and loops over it must not wrap.
constexpr int64_t kMaxScoresPerImage = INT32_MAX;

/// One pyramid level: A anchors, C classes, an H x W grid. A * C * H * W must not exceed kMaxScoresPerImage.
struct HeadLevel {
  int64_t num_anchors;
  int64_t num_classes;
  int64_t height;
  int64_t width;
  /// Pixels a cell.
  int32_t stride;
  /// Pixels to which kTorchvision clips, unless each image has a size of its own.
  float image_height;
  float image_width;
  /// Device memory, dense: [N, A * C, H, W] and [N, A * 4, H, W], of the heads' type, aligned for one element; [A, 4],
  /// float32. Not read when a workspace is sized.
  const void* scores;
  const void* deltas;
  const float* anchors;

  int64_t scores_per_image() const { return num_anchors * num_classes * height * width; }
};

/// Each image's height and width in pixels, device memory, [N, 2], aligned for one element: float32, or int32.
struct ImageSizes {
  /// Null: HeadLevel has the extent to which kTorchvision clips.
  const void* values;
  bool are_integers;
};

/// Every level's heads of one batch.
struct Heads {
  ElementType type;
  int64_t batch;
  int32_t num_levels;
  HeadLevel levels[kMaxLevels];
  ImageSizes image_sizes;
};

/// Which candidates are taken and how their boxes are decoded.
struct CandidateOptions {
  /// Candidates an image and level, K.
  int32_t topk_candidates;
  /// A score must be greater; in [0, 1].
  float score_thresh;
  BoxConvention convention;
  ScoreActivation activation;
};

}  // namespace torch_trt_ext::plugins
