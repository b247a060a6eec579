#include "common/device_floats.h"

#include "common/logging.h"

namespace torch_trt_ext::plugins {
namespace {

/// Owns a stream that does not wait for the default stream.
class Stream {
 public:
  Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace

DeviceFloats::~DeviceFloats() {
  // A destructor has nobody to tell; at process exit CUDA may be gone already.
  static_cast<void>(cudaFree(data_));
}

void DeviceFloats::upload(const std::vector<float>& values) {
  const size_t size_bytes = values.size() * sizeof(float);
  const Stream stream;
  void* memory = nullptr;
  check_cuda(cudaMalloc(&memory, size_bytes), "cudaMalloc");
  data_ = static_cast<float*>(memory);
  check_cuda(cudaMemcpyAsync(memory, values.data(), size_bytes, cudaMemcpyHostToDevice, stream.get()),
             "cudaMemcpyAsync");
  check_cuda(cudaStreamSynchronize(stream.get()), "cudaStreamSynchronize");
}

}  // namespace torch_trt_ext::plugins
