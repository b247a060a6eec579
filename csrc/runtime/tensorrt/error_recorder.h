#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace torch_trt_ext::tensorrt {

/// Keeps what TensorRT says when a call fails, for the message of the exception.
///
/// A logger is not enough: TensorRT keeps the first logger of a process for everything, which may be another library's.
/// TensorRT reports on the thread that made the call, so errors are kept a thread.
class ErrorRecorder : public nvinfer1::IErrorRecorder {
 public:
  /// The process's one recorder; every runtime, engine and context points to it, so it is never destroyed.
  static ErrorRecorder& instance();

  /// Forgets this thread's errors; called before a TensorRT call whose failure would be reported.
  static void forget() noexcept;
  /// This thread's errors since forget(), oldest first, or "it reported nothing".
  static std::string last_words();

  /// Also for messages that only a logger gets.
  static void add(const char* message) noexcept;

  int32_t getNbErrors() const noexcept override;
  nvinfer1::ErrorCode getErrorCode(int32_t index) const noexcept override;
  ErrorDesc getErrorDesc(int32_t index) const noexcept override;
  bool hasOverflowed() const noexcept override;
  void clear() noexcept override;
  bool reportError(nvinfer1::ErrorCode code, ErrorDesc description) noexcept override;
  RefCount incRefCount() noexcept override { return 1; }
  RefCount decRefCount() noexcept override { return 1; }
};

}  // namespace torch_trt_ext::tensorrt
