#pragma once

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime_api.h>

namespace torch_trt_ext::tensorrt {

/// A CUDA event without timing, of the device that is current when it is made.
class CudaEvent {
 public:
  CudaEvent() = default;
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  ~CudaEvent() {
    if (event_ != nullptr) {
      // At process exit the driver may be gone already, and with it the event.
      (void)cudaEventDestroy(event_);
    }
  }

  /// The event, made at the first call.
  cudaEvent_t handle() {
    if (event_ == nullptr) {
      C10_CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
    }
    return event_;
  }

  void record(cudaStream_t stream) { C10_CUDA_CHECK(cudaEventRecord(handle(), stream)); }

  /// Makes `stream` wait for the last record; nothing to wait for before the first.
  void block(cudaStream_t stream) const {
    if (event_ != nullptr) {
      C10_CUDA_CHECK(cudaStreamWaitEvent(stream, event_, 0));
    }
  }

  /// Blocks the host until the last record is over. For destructors as well: the status is the caller's to check.
  cudaError_t synchronize() const noexcept { return event_ == nullptr ? cudaSuccess : cudaEventSynchronize(event_); }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace torch_trt_ext::tensorrt
