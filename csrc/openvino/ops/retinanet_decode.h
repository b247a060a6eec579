#pragma once

#include <openvino/op/op.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ops/box_arithmetic.h"

namespace torch_trt_ext::ops {

/// Turns one pyramid level's heads into its best boxes. The twin of the TensorRT plugin of the same name.
///
/// Inputs, f32 or f16: scores [N, A * C, H, W], probabilities; deltas [N, A * 4, H, W].
/// Outputs, f32: scores [N, K, 1, 1], boxes [N, 4 * K, 1, 1] (x1, y1, x2, y2 of each), classes [N, K, 1, 1].
///
/// Candidate ((a * C + c) * H + y) * W + x passes when its score is finite and greater than score_thresh. The best K of
/// an image come out best first, equal scores by rising index, zeros after the last.
class RetinaNetDecode : public ov::op::Op {
 public:
  OPENVINO_OP("RetinaNetDecode", "torch_trt_ext")

  RetinaNetDecode() = default;

  void validate_and_infer_types() override;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
  /// The attributes are the plugin's fields. An IR holds one more, anchor_bits, which wins over anchors.
  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  bool has_evaluate() const override;
  /// Runs images in parallel when there is enough to do. Thread-safe.
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

 private:
  struct Geometry;

  void check_attributes() const;
  Geometry make_geometry(const ov::Shape& scores, const ov::Shape& deltas) const;
  template <typename Score, typename Delta>
  void decode_batch(ov::TensorVector& outputs, const ov::TensorVector& inputs, const Geometry& geometry) const;
  template <typename Score>
  std::vector<uint64_t> select_candidates(const Score* scores, int64_t num_scores) const;

  int64_t topk_candidates_ = 0;
  float score_thresh_ = 0.0f;
  int64_t stride_ = 0;
  /// How many floats `anchors` has, as the plugin's field of this name; 0 to leave it out.
  int64_t num_anchors_ = 0;
  std::vector<float> anchors_;
  std::string box_convention_ = "retinanet_examples";
  int64_t image_height_ = 0;
  int64_t image_width_ = 0;
};

}  // namespace torch_trt_ext::ops
