#include "runtime/tensorrt/output_allocator.h"

#include <ATen/Functions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>

#include "runtime/tensorrt/dims.h"

namespace torch_trt_ext::tensorrt {

void* OutputAllocator::reallocateOutputAsync(const char* /*name*/, void* /*current*/, uint64_t size_bytes,
                                             uint64_t /*alignment*/, cudaStream_t stream) {
  // Exceptions must not reach TensorRT: a null pointer makes enqueueV3 fail, and take() says why.
  try {
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromExternal(stream, device_.index()));
    // Torch aligns to 512 bytes, more than TensorRT asks for.
    storage_ = at::empty({static_cast<int64_t>(size_bytes)}, at::TensorOptions().dtype(at::kByte).device(device_));
    return storage_.mutable_data_ptr();
  } catch (...) {
    failure_ = std::current_exception();
    return nullptr;
  }
}

void OutputAllocator::notifyShape(const char* /*name*/, const nvinfer1::Dims& dims) noexcept {
  try {
    shape_ = to_sizes(dims);
    shape_known_ = true;
  } catch (...) {
    failure_ = std::current_exception();
  }
}

void OutputAllocator::rethrow_failure() const {
  if (failure_) {
    std::rethrow_exception(failure_);
  }
}

at::Tensor OutputAllocator::take() {
  rethrow_failure();
  TORCH_CHECK(shape_known_ && storage_.defined(), "TensorRT must report the shape of every output, got none");
  const auto bytes = static_cast<int64_t>(c10::elementSize(dtype_)) * c10::multiply_integers(shape_);
  return storage_.narrow(0, 0, bytes).view(dtype_).view(shape_);
}

}  // namespace torch_trt_ext::tensorrt
