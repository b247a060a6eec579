#pragma once

#include "runtime/export.h"

namespace torch_trt_ext {

/// The numbers of Python's logging.
enum class LogLevel : int { kDebug = 10, kInfo = 20, kWarning = 30, kError = 40 };

/// Takes a message, on whatever thread it comes from. `source` is who says it, e.g. "tensorrt".
using LogFunction = void (*)(int level, const char* source, const char* message);

/// Sends messages of `least` and above to `function` from now on; null is torch's own log.
void set_log(LogFunction function, LogLevel least);

/// Whether a message would be kept; ask before formatting one.
TORCH_TRT_EXT_API bool is_logged(LogLevel level) noexcept;

/// Never throws: a log that cannot be written is no reason to fail.
TORCH_TRT_EXT_API void log(LogLevel level, const char* source, const char* message) noexcept;

}  // namespace torch_trt_ext
