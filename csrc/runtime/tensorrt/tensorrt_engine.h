#pragma once

#include <NvInferRuntime.h>
#include <c10/cuda/CUDAStream.h>

#include <atomic>
#include <memory>
#include <vector>

#include "runtime/engine.h"
#include "runtime/tensorrt/context_pool.h"
#include "runtime/tensorrt/graph_runner.h"
#include "runtime/tensorrt/layer_profiler.h"
#include "runtime/tensorrt/output_allocator.h"

namespace torch_trt_ext::tensorrt {

/// A deserialized plan on one GPU.
///
/// run() from TorchScript to the GPU: a context is leased for the current stream; outputs and activation memory come
/// from torch's caching allocator, the latter for this call alone, so engines of one model share it; what changed since
/// the context's last call is bound to it; enqueueV3; the lease ends. Nothing waits for the GPU. From the default
/// stream, on which TensorRT would synchronize, the work goes to a stream of the engine's own, between two events.
///
/// With CUDA graphs on, a call whose shapes and addresses came before replays a graph on the caller's own stream,
/// whichever that is. Engines with shape tensors, with outputs whose shape only the run tells, or that CUDA cannot
/// record, run as without graphs.
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

  std::vector<at::Tensor> run(std::vector<at::Tensor> inputs, size_t profile) override;

  void use_cuda_graphs(bool enabled) override { graphs_.want(enabled); }

  void set_input_tracking(bool enabled) override { tracking_.store(enabled, std::memory_order_relaxed); }
  void wait_for_inputs() override;

  int64_t streamable_weight_bytes() const override { return engine_->getStreamableWeightsSize(); }
  void set_weight_budget(int64_t bytes) override;

  std::string layer_info() const override;
  void set_profiling(bool enabled) override;
  std::vector<LayerTime> profile() const override { return profiler_.times.list(); }

  /// "contexts": execution contexts made and alive; and those of GraphRunner.
  std::map<std::string, int64_t> counters() const override;

 private:
  void read_tensors();
  void read_profiles();
  void set_shapes(Context& context, const std::vector<at::Tensor>& inputs) const;
  void bind_input(Context& context, size_t index, const void* address) const;
  std::vector<at::Tensor> allocate_outputs(const Context& context) const;
  /// Null for a tensor that is not there yet.
  const void* address_of(const at::Tensor& tensor) const;
  Addresses addresses_of(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs,
                         const void* memory) const;
  void bind(Context& context, const Addresses& addresses, std::vector<OutputAllocator>& allocators) const;
  void enqueue(Context& context, cudaStream_t stream, std::vector<OutputAllocator>& allocators) const;
  void attach_profiler(Context& context, bool wanted, cudaStream_t stream);

  at::Device device_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::vector<Profile> profiles_;
  bool has_host_tensors_ = false;
  /// Stands in for the address of a tensor without elements, since TensorRT refuses null.
  at::Tensor placeholder_;
  c10::cuda::CUDAStream side_stream_;
  ContextPool contexts_;
  GraphRunner graphs_;
  std::atomic<bool> tracking_{false};
  std::atomic<bool> profiling_{false};
  LayerProfiler profiler_;
};

}  // namespace torch_trt_ext::tensorrt
