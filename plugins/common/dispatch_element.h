#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "common/element_type.h"

namespace torch_trt_ext::plugins {

/// Calls `launch` with a value of the C++ type that `type` stands for.
template <class Launch>
cudaError_t dispatch_element(ElementType type, Launch&& launch) {
  return type == ElementType::kFloat16 ? launch(__half{}) : launch(float{});
}

}  // namespace torch_trt_ext::plugins
