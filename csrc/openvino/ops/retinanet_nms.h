#pragma once

#include <openvino/op/op.hpp>

#include <cstdint>
#include <memory>
#include <string>

#include "ops/box_arithmetic.h"

namespace torch_trt_ext::ops {

/// Greedy non-maximum suppression per class over all levels. The twin of the TensorRT plugin of the same name.
///
/// Inputs, f32: scores [N, M, 1, 1], boxes [N, 4 * M, 1, 1] (x1, y1, x2, y2 of each), classes [N, M, 1, 1].
/// Outputs, f32: the same with D, max_detections_per_image, in place of M.
///
/// Only finite scores above zero count. Best first, equal scores by rising index, a box goes if one that was kept has
/// its class and an IoU with it greater than nms_thresh. Zeros after the last.
class RetinaNetNMS : public ov::op::Op {
 public:
  OPENVINO_OP("RetinaNetNMS", "torch_trt_ext")

  RetinaNetNMS() = default;

  void validate_and_infer_types() override;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  bool has_evaluate() const override;
  /// Runs images in parallel when there is enough to do. Thread-safe.
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

 private:
  struct Candidates;
  struct Detections;

  void suppress(const Candidates& candidates, const Detections& detections, BoxConvention convention) const;

  float nms_thresh_ = 0.5f;
  int64_t max_detections_per_image_ = 0;
  std::string box_convention_ = "retinanet_examples";
};

}  // namespace torch_trt_ext::ops
