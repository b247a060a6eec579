#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/element_type.h"

namespace torch_trt_ext::plugins {

/// output[i] = input[i] > 0 ? input[i] : neg_slope * input[i], computed in float32 and rounded once; NaN stays NaN.
///
/// `input` and `output` are device memory, `count` elements of `type` each, aligned for one; they may be the same, but
/// must not overlap otherwise. The work is put on `stream`; the host is not blocked.
cudaError_t launch_leaky_relu(const void* input, void* output, int64_t count, float neg_slope, ElementType type,
                              cudaStream_t stream);

}  // namespace torch_trt_ext::plugins
