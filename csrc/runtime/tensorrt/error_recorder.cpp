#include "runtime/tensorrt/error_recorder.h"

#include <algorithm>
#include <vector>

namespace torch_trt_ext::tensorrt {
namespace {

/// A failure that repeats itself (a corrupt plan) must not fill the memory.
constexpr size_t kMaxErrors = 16;

struct Errors {
  std::vector<std::string> messages;
  nvinfer1::ErrorCode last_code = nvinfer1::ErrorCode::kSUCCESS;
  bool overflowed = false;
};

Errors& thread_errors() {
  static thread_local Errors errors;
  return errors;
}

}  // namespace

ErrorRecorder& ErrorRecorder::instance() {
  static ErrorRecorder* const recorder = new ErrorRecorder();
  return *recorder;
}

void ErrorRecorder::forget() noexcept {
  thread_errors() = {};
}

std::string ErrorRecorder::last_words() {
  std::string text;
  for (const std::string& message : thread_errors().messages) {
    text += (text.empty() ? "" : "; ") + message;
  }
  return text.empty() ? "it reported nothing" : text;
}

void ErrorRecorder::add(const char* message) noexcept {
  try {
    Errors& errors = thread_errors();
    // Logger and recorder get the same error, the logger with a prefix.
    const bool known = std::any_of(errors.messages.begin(), errors.messages.end(), [message](const std::string& other) {
      return other.find(message) != std::string::npos || std::string(message).find(other) != std::string::npos;
    });
    if (known) {
      return;
    }
    if (errors.messages.size() == kMaxErrors) {
      errors.overflowed = true;
      return;
    }
    errors.messages.emplace_back(message);
  } catch (...) {
    // Out of memory while keeping a message: the call that failed still reports its own failure.
  }
}

int32_t ErrorRecorder::getNbErrors() const noexcept {
  return static_cast<int32_t>(thread_errors().messages.size());
}

nvinfer1::ErrorCode ErrorRecorder::getErrorCode(int32_t /*index*/) const noexcept {
  return thread_errors().last_code;
}

nvinfer1::IErrorRecorder::ErrorDesc ErrorRecorder::getErrorDesc(int32_t index) const noexcept {
  const std::vector<std::string>& messages = thread_errors().messages;
  return index >= 0 && static_cast<size_t>(index) < messages.size() ? messages[static_cast<size_t>(index)].c_str() : "";
}

bool ErrorRecorder::hasOverflowed() const noexcept {
  return thread_errors().overflowed;
}

void ErrorRecorder::clear() noexcept {
  forget();
}

bool ErrorRecorder::reportError(nvinfer1::ErrorCode code, ErrorDesc description) noexcept {
  thread_errors().last_code = code;
  add(description);
  // False: the recorder leaves it to TensorRT whether the error is fatal.
  return false;
}

}  // namespace torch_trt_ext::tensorrt
