#pragma once

#include <NvInferRuntime.h>

namespace torch_trt_ext::tensorrt {

/// TensorRT's log, passed on to torch_trt_ext::log; errors also go to ErrorRecorder.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;

  /// The process's one logger; TensorRT remembers the first it is given, so it is never destroyed.
  static Logger& instance();
};

}  // namespace torch_trt_ext::tensorrt
