#include "common/logging.h"

#include <atomic>
#include <cstdio>
#include <stdexcept>

#include "common/export.h"
#include "common/tensorrt_library.h"

namespace torch_trt_ext::plugins {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};
thread_local std::string last_error;

nvinfer1::ILogger* find_logger() {
  if (nvinfer1::ILoggerFinder* finder = logger_finder.load(std::memory_order_acquire)) {
    if (nvinfer1::ILogger* logger = finder->findLogger()) {
      return logger;
    }
  }
  using GetLogger = nvinfer1::ILogger* (*)();
  const auto get_logger = reinterpret_cast<GetLogger>(find_tensorrt_symbol("getLogger"));
  return get_logger == nullptr ? nullptr : get_logger();
}

}  // namespace

void log_error(const std::string& message) noexcept {
  try {
    last_error = message;
    if (nvinfer1::ILogger* logger = find_logger()) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
      return;
    }
  } catch (...) {
    // The logger is the caller's; the message still has to come out somewhere.
  }
  std::fprintf(stderr, "[torch_trt_ext plugins] %s\n", message.c_str());
}

void check_cuda(cudaError_t status, const char* action) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(action) + " failed with CUDA error " + cudaGetErrorName(status) + ": " +
                             cudaGetErrorString(status));
  }
}

}  // namespace torch_trt_ext::plugins

/// TensorRT calls this when it loads the library out of a version-compatible plan.
TTE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  torch_trt_ext::plugins::logger_finder.store(finder, std::memory_order_release);
}

/// The last error on the calling thread, or "". Valid until the thread's next error. For callers of createPlugin, whose
/// null says nothing: TensorRT's logger may be one that they do not see.
TTE_EXPORT const char* torch_trt_ext_plugins_last_error() {
  return torch_trt_ext::plugins::last_error.c_str();
}
