#include "runtime/log.h"

#include <c10/util/Logging.h>

#include <atomic>

namespace torch_trt_ext {
namespace {

std::atomic<LogFunction> g_function{nullptr};
std::atomic<int> g_least{static_cast<int>(LogLevel::kWarning)};

}  // namespace

void set_log(LogFunction function, LogLevel least) {
  g_least.store(static_cast<int>(least));
  g_function.store(function);
}

bool is_logged(LogLevel level) noexcept {
  return static_cast<int>(level) >= g_least.load(std::memory_order_relaxed);
}

void log(LogLevel level, const char* source, const char* message) noexcept {
  if (!is_logged(level)) {
    return;
  }
  try {
    if (const LogFunction function = g_function.load(); function != nullptr) {
      function(static_cast<int>(level), source, message);
    } else if (level == LogLevel::kError) {
      LOG(ERROR) << source << ": " << message;
    } else if (level == LogLevel::kWarning) {
      LOG(WARNING) << source << ": " << message;
    } else {
      LOG(INFO) << source << ": " << message;
    }
  } catch (...) {
  }
}

}  // namespace torch_trt_ext
