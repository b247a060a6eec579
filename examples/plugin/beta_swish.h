#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

/// output[i] = x / (1 + exp(-beta * x)) with x = input[i], computed in float32 and rounded once.
///
/// Device memory, `count` elements each, float16 where `is_half`, else float32. The work is put on `stream`; the host
/// is not blocked and nothing is allocated, so that it can be captured in a CUDA graph.
cudaError_t launch_beta_swish(const void* input, void* output, int64_t count, float beta, bool is_half,
                              cudaStream_t stream);
