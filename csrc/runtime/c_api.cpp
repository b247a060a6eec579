#include <string>

#include "runtime/engine.h"
#include "runtime/log.h"
#include "runtime/plugin_names.h"
#include "runtime/torch_trt_ext.h"

namespace {

/// Null for an empty message; else a pointer that lives until this thread's next message.
const char* keep(std::string message) {
  static thread_local std::string kept;
  kept = std::move(message);
  return kept.empty() ? nullptr : kept.c_str();
}

}  // namespace

void torch_trt_ext_add_library_folder(const char* kind, const char* folder) {
  if (torch_trt_ext::Backend* const backend = torch_trt_ext::find_backend(kind)) {
    backend->add_library_folder(folder);
  }
}

const char* torch_trt_ext_missing_runtime(const char* kind) {
  return keep(torch_trt_ext::explain_missing_runtime(kind));
}

void torch_trt_ext_add_plugin_folder(const char* folder) {
  torch_trt_ext::add_plugin_folder(folder);
}

const char* torch_trt_ext_open_plugin_library(const char* path) {
  return keep(torch_trt_ext::open_plugin_library(path));
}

void torch_trt_ext_set_log(torch_trt_ext_log_function function, int least_level) {
  torch_trt_ext::set_log(function, static_cast<torch_trt_ext::LogLevel>(least_level));
}
