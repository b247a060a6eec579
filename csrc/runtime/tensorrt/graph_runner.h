#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>
#include <cuda_runtime_api.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/tensorrt/context_pool.h"
#include "runtime/tensorrt/graph_cache.h"

namespace torch_trt_ext::tensorrt {

/// Records an engine's enqueues in CUDA graphs and replays them; see TensorRTEngine.
///
/// Thread safety: run() may be called by several threads at once, each with a context that it leased.
class GraphRunner {
 public:
  /// A capture costs as much as hundreds of calls, so addresses must have come back before there is one.
  static constexpr int kCallsBeforeCapture = 2;
  /// When this many calls in a row had no graph, their addresses are not expected to come back.
  static constexpr int kMissesBeforeStaging = 32;
  /// Inputs, outputs and activations that a staged graph may hold for itself: beyond, copies cost more than launches.
  static constexpr size_t kMaxStagedBytes = size_t{32} << 20;

  /// One call of an engine, whose memory is all allocated, on the stream of the caller.
  struct Call {
    const std::vector<at::Tensor>& inputs;
    const std::vector<at::Tensor>& outputs;
    const Addresses& addresses;
    cudaStream_t stream;
    /// Whether to record Context::inputs_read.
    bool tracked;
    /// Binds addresses to the context.
    c10::function_ref<void(const Addresses&)> bind;
    /// Where tensors with these inputs and outputs, and this memory, are.
    c10::function_ref<Addresses(const std::vector<at::Tensor>&, const std::vector<at::Tensor>&, const void*)>
        addresses_of;
  };

  explicit GraphRunner(at::Device device) : device_(device) {}
  GraphRunner(const GraphRunner&) = delete;
  GraphRunner& operator=(const GraphRunner&) = delete;
  ~GraphRunner();

  void want(bool enabled) { wanted_.store(enabled, std::memory_order_relaxed); }
  /// Whether run() is worth a try: graphs are wanted, and CUDA has not refused to record this engine.
  bool active() const { return wanted_.load(std::memory_order_relaxed) && possible_.load(std::memory_order_relaxed); }

  /// Runs the call through a graph if there is one for it, or if it is time to record one. False when nothing ran;
  /// where a recording failed, the context has forgotten its shapes.
  bool run(Context& context, const Call& call);

  /// "graph_captures", "graph_replays", and among the latter "graph_copies": through a staged graph.
  std::map<std::string, int64_t> counters() const;

 private:
  bool run_staged(Context& context, const Call& call);
  bool stage(Context& context, const Call& call);
  Graph capture(Context& context);
  void launched(Context& context, cudaStream_t stream);

  at::Device device_;
  std::atomic<bool> wanted_{false};
  std::atomic<bool> possible_{true};
  std::atomic<int64_t> captures_{0};
  std::atomic<int64_t> replays_{0};
  std::atomic<int64_t> copies_{0};
  /// Graphs are recorded here and run elsewhere. Not one of torch's streams, which others may use meanwhile.
  cudaStream_t capture_stream_ = nullptr;
  std::mutex capture_mutex_;
};

}  // namespace torch_trt_ext::tensorrt
