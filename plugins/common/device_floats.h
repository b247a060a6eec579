#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

namespace torch_trt_ext::plugins {

/// Owns a read-only array of floats in the memory of one device.
class DeviceFloats {
 public:
  DeviceFloats() = default;
  DeviceFloats(const DeviceFloats&) = delete;
  DeviceFloats& operator=(const DeviceFloats&) = delete;
  ~DeviceFloats();

  /// Allocates on the current device and copies `values` there. Blocks the host until the copy is done, so that any
  /// stream may read it afterwards. Must be called at most once, with at least one value. Throws std::runtime_error.
  void upload(const std::vector<float>& values);

  /// Null before upload().
  const float* data() const { return data_; }

 private:
  float* data_ = nullptr;
};

}  // namespace torch_trt_ext::plugins
