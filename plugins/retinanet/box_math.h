#pragma once

#include <cmath>

#include "common/host_device.h"
#include "retinanet/box_convention.h"

namespace torch_trt_ext::plugins {

/// Corners in pixels: x1, y1, x2, y2.
struct Box {
  float x1;
  float y1;
  float x2;
  float y2;
};

/// What a head predicts for one anchor: shifts in units of its size, logarithms of the size's change.
struct BoxDelta {
  float dx;
  float dy;
  float dw;
  float dh;
};

/// Extent in pixels to which a decoded box is clipped.
struct ClipExtent {
  float width;
  float height;
};

/// log(1000 / 16), the bound of dw and dh in torchvision and detectron2.
constexpr float kMaxLogScale = 4.135166556742356F;

/// Decodes one box. Every step is rounded to float32 in the order written, as in tests/reference.
///
/// `anchor` is the cell's anchor already shifted to the cell. `grid` (W * stride, H * stride) clips kRetinanetExamples,
/// `image` clips kTorchvision.
TTE_HOST_DEVICE Box decode_box(BoxConvention convention, Box anchor, BoxDelta delta, ClipExtent grid,
                               ClipExtent image) {
  const bool inclusive = convention == BoxConvention::kRetinanetExamples;
  const float extra = inclusive ? 1.0F : 0.0F;
  const float width = anchor.x2 - anchor.x1 + extra;
  const float height = anchor.y2 - anchor.y1 + extra;
  float dw = delta.dw;
  float dh = delta.dh;
  float center_x;
  float center_y;
  if (inclusive) {
    center_x = delta.dx * width + anchor.x1 + 0.5F * width;
    center_y = delta.dy * height + anchor.y1 + 0.5F * height;
  } else {
    dw = fminf(dw, kMaxLogScale);
    dh = fminf(dh, kMaxLogScale);
    center_x = delta.dx * width + (anchor.x1 + 0.5F * width);
    center_y = delta.dy * height + (anchor.y1 + 0.5F * height);
  }
  const float half_width = 0.5F * (expf(dw) * width);
  const float half_height = 0.5F * (expf(dh) * height);
  Box box = {center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height};
  if (inclusive) {
    box.x1 = fmaxf(0.0F, box.x1);
    box.y1 = fmaxf(0.0F, box.y1);
    box.x2 = fminf(box.x2 - 1.0F, grid.width - 1.0F);
    box.y2 = fminf(box.y2 - 1.0F, grid.height - 1.0F);
  } else if (convention == BoxConvention::kTorchvision) {
    box.x1 = fminf(fmaxf(box.x1, 0.0F), image.width);
    box.y1 = fminf(fmaxf(box.y1, 0.0F), image.height);
    box.x2 = fminf(fmaxf(box.x2, 0.0F), image.width);
    box.y2 = fminf(fmaxf(box.y2, 0.0F), image.height);
  }
  return box;
}

/// What is added to x2 - x1 for a box's width.
TTE_HOST_DEVICE float side_extra(BoxConvention convention) {
  return convention == BoxConvention::kRetinanetExamples ? 1.0F : 0.0F;
}

/// Sides count x2 - x1 (+ 1 for kRetinanetExamples), never less than 0.
TTE_HOST_DEVICE float box_area(BoxConvention convention, Box box) {
  const float extra = side_extra(convention);
  return fmaxf(0.0F, box.x2 - box.x1 + extra) * fmaxf(0.0F, box.y2 - box.y1 + extra);
}

/// True when the two boxes' intersection over union is greater than `threshold`, which is at least 0. The areas are
/// their box_area. An empty union (0 / 0) or a NaN is not greater.
TTE_HOST_DEVICE bool overlaps(BoxConvention convention, Box a, float area_a, Box b, float area_b, float threshold) {
  const float extra = side_extra(convention);
  const float width = fmaxf(0.0F, fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1) + extra);
  const float height = fmaxf(0.0F, fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1) + extra);
  const float intersection = width * height;
  // Most pairs do not touch: no division for them.
  if (!(intersection > 0.0F)) {
    return false;
  }
  return intersection / (area_a + area_b - intersection) > threshold;
}

TTE_HOST_DEVICE bool overlaps(BoxConvention convention, Box a, Box b, float threshold) {
  return overlaps(convention, a, box_area(convention, a), b, box_area(convention, b), threshold);
}

}  // namespace torch_trt_ext::plugins
