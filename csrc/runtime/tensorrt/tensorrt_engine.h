#pragma once

#include <NvInferRuntime.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <vector>

#include "runtime/engine.h"
#include "runtime/tensorrt/context_pool.h"
#include "runtime/tensorrt/output_allocator.h"

namespace torch_trt_ext::tensorrt {

/// A deserialized plan on one GPU.
///
/// run() from TorchScript to the GPU: a context is leased for the current stream; inputs and outputs are bound to it;
/// activation memory comes from torch's caching allocator for this call alone, so engines of one model share it;
/// enqueueV3; the lease ends. Nothing waits for the GPU. From the default stream, on which TensorRT would synchronize,
/// the work goes to a stream of the engine's own, between two events.
class TensorRTEngine : public Engine {
 public:
  /// Throws c10::Error for an input or output that torch tensors cannot hold.
  TensorRTEngine(std::unique_ptr<nvinfer1::ICudaEngine> engine, at::Device device);
  /// Waits for the GPU to finish what the engine still runs.
  ~TensorRTEngine() override;

  const std::vector<TensorInfo>& inputs() const override { return inputs_; }
  const std::vector<TensorInfo>& outputs() const override { return outputs_; }
  const std::vector<Profile>& profiles() const override { return profiles_; }
  at::Device device() const override { return device_; }

  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, size_t profile) override;

  /// "contexts": execution contexts made and alive.
  std::map<std::string, int64_t> counters() const override;

 private:
  void read_tensors();
  void read_profiles();
  void bind_inputs(Context& context, const std::vector<at::Tensor>& inputs) const;
  std::vector<at::Tensor> bind_outputs(Context& context, std::vector<OutputAllocator>& allocators) const;
  void enqueue(Context& context, cudaStream_t stream, std::vector<OutputAllocator>& allocators) const;

  at::Device device_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::vector<Profile> profiles_;
  /// Stands in for the address of a tensor without elements, since TensorRT refuses null.
  at::Tensor placeholder_;
  c10::cuda::CUDAStream side_stream_;
  ContextPool contexts_;
};

}  // namespace torch_trt_ext::tensorrt
