#include "runtime/tensorrt/logger.h"

#include <c10/util/Logging.h>

#include "runtime/tensorrt/error_recorder.h"

namespace torch_trt_ext::tensorrt {

void Logger::log(Severity severity, const char* message) noexcept {
  if (severity == Severity::kINTERNAL_ERROR || severity == Severity::kERROR) {
    ErrorRecorder::add(message);
  } else if (severity == Severity::kWARNING) {
    try {
      LOG(WARNING) << "TensorRT: " << message;
    } catch (...) {
      // A log that cannot be written is no reason to fail.
    }
  }
}

Logger& Logger::instance() {
  static Logger* const logger = new Logger();
  return *logger;
}

}  // namespace torch_trt_ext::tensorrt
