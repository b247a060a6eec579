#pragma once

#include <NvInferRuntime.h>

namespace torch_trt_ext::tensorrt {

/// TensorRT's log: warnings go to torch's log, errors to ErrorRecorder, the rest is dropped unformatted.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;

  /// The process's one logger; TensorRT remembers the first it is given, so it is never destroyed.
  static Logger& instance();
};

}  // namespace torch_trt_ext::tensorrt
