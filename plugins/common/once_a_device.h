#pragma once

#include <cuda_runtime_api.h>

#include <atomic>

namespace torch_trt_ext::plugins {

/// What is found out about the current device, once for each. `Value` is false until it is known, and small enough for
/// an atomic without a lock.
template <class Value>
class OnceADevice {
 public:
  /// `find(ordinal, value)` returns a cudaError_t; it is asked every time on the devices past the first kDevices.
  template <class Find>
  cudaError_t get(Value& value, Find&& find) {
    int ordinal = 0;
    cudaError_t status = cudaGetDevice(&ordinal);
    if (status != cudaSuccess) {
      return status;
    }
    if (ordinal < kDevices) {
      value = known_[ordinal].load(std::memory_order_relaxed);
      if (value) {
        return cudaSuccess;
      }
    }
    status = find(ordinal, value);
    if (status == cudaSuccess && ordinal < kDevices) {
      // Threads that are here at once find the same.
      known_[ordinal].store(value, std::memory_order_relaxed);
    }
    return status;
  }

 private:
  static constexpr int kDevices = 64;

  std::atomic<Value> known_[kDevices] = {};
};

}  // namespace torch_trt_ext::plugins
