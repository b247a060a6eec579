/// The plugins' launchers as C functions, for Python.

#include <cmath>

#include "layers/group_norm_kernels.h"
#include "layers/leaky_relu_kernels.h"
#include "retinanet/decode_kernels.h"
#include "retinanet/nms_kernels.h"
#include "retinanet/postprocess_kernels.h"

using namespace torch_trt_ext::plugins;

#define EXPORT extern "C" __attribute__((visibility("default")))

/// What the kernels compute: tests need the same exp.
EXPORT void sigmoid(const float* logits, float* scores, int64_t count) {
  for (int64_t index = 0; index < count; ++index) {
    scores[index] = 1.0F / (1.0F + expf(-logits[index]));
  }
}

EXPORT int leaky_relu(const void* input, void* output, int64_t count, float neg_slope, int type) {
  return launch_leaky_relu(input, output, count, neg_slope, static_cast<ElementType>(type), nullptr);
}

EXPORT size_t group_norm_bytes(const GroupNormShape* shape) {
  return group_norm_workspace_bytes(*shape);
}

EXPORT int group_norm(const GroupNormShape* shape, float eps, const void* scale, const void* bias, int affine_type,
                      int variant, const void* input, void* output, int type, void* workspace) {
  return launch_group_norm(*shape, eps, {scale, bias, static_cast<ElementType>(affine_type)},
                           static_cast<GroupNormVariant>(variant), input, output, static_cast<ElementType>(type),
                           workspace, nullptr);
}

EXPORT size_t decode_bytes(const Heads* heads, int topk_candidates) {
  return decode_workspace_bytes(*heads, topk_candidates);
}

EXPORT int decode(const Heads* heads, const CandidateOptions* options, float* scores, float* boxes, float* classes,
                  void* workspace) {
  return launch_decode(*heads, *options, scores, boxes, classes, workspace, nullptr);
}

EXPORT size_t nms_bytes(const NmsShape* shape) {
  return nms_workspace_bytes(*shape);
}

EXPORT int nms(const NmsShape* shape, const NmsOptions* options, int type, const void* scores, const void* boxes,
               const void* classes, const Detections* detections, void* workspace) {
  return launch_nms(*shape, *options, static_cast<ElementType>(type), scores, boxes, classes, *detections, workspace,
                    nullptr);
}

EXPORT size_t postprocess_bytes(const Heads* heads, int topk_candidates) {
  return postprocess_workspace_bytes(*heads, topk_candidates);
}

EXPORT int postprocess(const Heads* heads, const CandidateOptions* candidate_options, const NmsOptions* nms_options,
                       const Detections* detections, void* workspace) {
  return launch_postprocess(*heads, *candidate_options, *nms_options, *detections, workspace, nullptr);
}
