#include "runtime/tensorrt/logger.h"

#include "runtime/log.h"
#include "runtime/tensorrt/error_recorder.h"

namespace torch_trt_ext::tensorrt {

void Logger::log(Severity severity, const char* message) noexcept {
  LogLevel level = LogLevel::kDebug;
  if (severity == Severity::kINTERNAL_ERROR || severity == Severity::kERROR) {
    // It becomes part of an exception's message, and whoever catches that decides whether it is worth a line.
    ErrorRecorder::add(message);
  } else if (severity == Severity::kWARNING) {
    level = LogLevel::kWarning;
  } else if (severity == Severity::kINFO) {
    level = LogLevel::kInfo;
  }
  torch_trt_ext::log(level, "tensorrt", message);
}

Logger& Logger::instance() {
  static Logger* const logger = new Logger();
  return *logger;
}

}  // namespace torch_trt_ext::tensorrt
