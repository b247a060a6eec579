#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <exception>
#include <string>

namespace torch_trt_ext::plugins {

/// Sends an error to TensorRT's logger, or to stderr when there is none, and keeps it as the thread's last error (see
/// torch_trt_ext_plugins_last_error). Thread safe; blocks as long as the logger does.
void log_error(const std::string& message) noexcept;

/// Throws std::runtime_error with CUDA's words when `status` is not success. `action` says what was tried.
void check_cuda(cudaError_t status, const char* action);

/// Runs `action` at a boundary that no exception may cross. Returns 0, or logs what it throws, naming `plugin`, and
/// returns 1.
template <class Action>
int32_t run_guarded(const char* plugin, Action&& action) noexcept {
  try {
    action();
    return 0;
  } catch (const std::exception& error) {
    log_error(std::string(plugin) + ": " + error.what());
  } catch (...) {
    log_error(std::string(plugin) + ": unknown exception");
  }
  return 1;
}

}  // namespace torch_trt_ext::plugins
