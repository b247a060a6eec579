#pragma once

#include <ATen/core/Tensor.h>
#include <NvInferRuntime.h>

#include <exception>
#include <vector>

namespace torch_trt_ext::tensorrt {

/// Memory for one output whose shape only the engine's run tells, from torch's caching allocator.
///
/// Used within one enqueueV3: TensorRT asks for bytes, then says the shape.
class OutputAllocator : public nvinfer1::IOutputAllocator {
 public:
  OutputAllocator(at::ScalarType dtype, at::Device device) : dtype_(dtype), device_(device) {}

  void* reallocateOutputAsync(const char* name, void* current, uint64_t size_bytes, uint64_t alignment,
                              cudaStream_t stream) override;
  void notifyShape(const char* name, const nvinfer1::Dims& dims) noexcept override;

  /// Throws what an allocation threw (CUDA out of memory, above all), if one did.
  void rethrow_failure() const;

  /// The output, once enqueueV3 has succeeded.
  at::Tensor take();

 private:
  at::ScalarType dtype_;
  at::Device device_;
  at::Tensor storage_;
  std::vector<int64_t> shape_;
  bool shape_known_ = false;
  std::exception_ptr failure_;
};

}  // namespace torch_trt_ext::tensorrt
