#pragma once

#include <NvInferRuntime.h>

#include "runtime/layer_times.h"

namespace torch_trt_ext::tensorrt {

/// Takes what TensorRT reports of each layer, from all contexts of an engine.
class LayerProfiler : public nvinfer1::IProfiler {
 public:
  void reportLayerTime(const char* layer, float milliseconds) noexcept override {
    try {
      times.add(layer, milliseconds);
    } catch (...) {
      // Out of memory for a name: TensorRT takes no exceptions, and a time less is no wrong answer.
    }
  }

  LayerTimes times;
};

}  // namespace torch_trt_ext::tensorrt
