#include "runtime/tensorrt/graph_runner.h"

#include <ATen/Functions.h>
#include <c10/cuda/CUDAException.h>
#include <c10/util/Exception.h>

#include "runtime/tensorrt/error_recorder.h"

namespace torch_trt_ext::tensorrt {
namespace {

size_t bytes_of(const std::vector<at::Tensor>& tensors) {
  size_t bytes = 0;
  for (const at::Tensor& tensor : tensors) {
    bytes += tensor.nbytes();
  }
  return bytes;
}

std::vector<at::Tensor> empty_like(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> result;
  result.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) {
    result.push_back(at::empty(tensor.sizes(), tensor.options()));
  }
  return result;
}

/// Both contiguous, of the same shapes and types.
void copy(const std::vector<at::Tensor>& from, const std::vector<at::Tensor>& to, cudaStream_t stream) {
  for (size_t index = 0; index < from.size(); ++index) {
    if (from[index].nbytes() > 0) {
      C10_CUDA_CHECK(cudaMemcpyAsync(to[index].mutable_data_ptr(), from[index].const_data_ptr(), from[index].nbytes(),
                                     cudaMemcpyDeviceToDevice, stream));
    }
  }
}

}  // namespace

GraphRunner::~GraphRunner() {
  if (capture_stream_ != nullptr) {
    (void)cudaStreamDestroy(capture_stream_);
  }
}

bool GraphRunner::run(Context& context, const Call& call) {
  if (context.graphs.staged != nullptr) {
    return run_staged(context, call);
  }
  GraphCache::Entry& entry = context.graphs.find(call.addresses);
  if (!entry.graph) {
    ++context.graphs.misses;
    if (!context.has_run) {
      return false;
    }
    if (++entry.calls <= kCallsBeforeCapture) {
      return context.graphs.misses > kMissesBeforeStaging && stage(context, call) && run_staged(context, call);
    }
    call.bind(call.addresses);
    entry.graph = capture(context);
    if (!entry.graph) {
      return false;
    }
  }
  context.graphs.misses = 0;
  entry.graph.launch(call.stream);
  if (call.tracked) {
    context.inputs_read.record(call.stream);
  }
  launched(context, call.stream);
  return true;
}

bool GraphRunner::stage(Context& context, const Call& call) {
  if (bytes_of(call.inputs) + bytes_of(call.outputs) + context.memory_bytes > kMaxStagedBytes) {
    return false;
  }
  auto staged = std::make_unique<StagedGraph>();
  staged->inputs = empty_like(call.inputs);
  staged->outputs = empty_like(call.outputs);
  staged->memory =
      at::empty({static_cast<int64_t>(context.memory_bytes)}, at::TensorOptions().dtype(at::kByte).device(device_));
  call.bind(call.addresses_of(staged->inputs, staged->outputs, staged->memory.const_data_ptr()));
  staged->graph = capture(context);
  if (!staged->graph) {
    return false;
  }
  // Graphs for addresses that do not come back are of no use any more.
  context.graphs.clear();
  context.graphs.staged = std::move(staged);
  return true;
}

bool GraphRunner::run_staged(Context& context, const Call& call) {
  const StagedGraph& staged = *context.graphs.staged;
  copy(call.inputs, staged.inputs, call.stream);
  if (call.tracked) {
    context.inputs_read.record(call.stream);
  }
  staged.graph.launch(call.stream);
  copy(staged.outputs, call.outputs, call.stream);
  copies_.fetch_add(1, std::memory_order_relaxed);
  launched(context, call.stream);
  return true;
}

void GraphRunner::launched(Context& context, cudaStream_t stream) {
  context.last_use.record(stream);
  replays_.fetch_add(1, std::memory_order_relaxed);
}

Graph GraphRunner::capture(Context& context) {
  const std::lock_guard<std::mutex> lock(capture_mutex_);
  if (capture_stream_ == nullptr) {
    C10_CUDA_CHECK(cudaStreamCreateWithFlags(&capture_stream_, cudaStreamNonBlocking));
  }
  ErrorRecorder::forget();
  // In a graph the event would be a node of it, which nobody outside can wait for.
  context.track_inputs(false);
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t graph = nullptr;
  // Other threads may go on allocating memory meanwhile.
  cudaError_t status = cudaStreamBeginCapture(capture_stream_, cudaStreamCaptureModeThreadLocal);
  if (status == cudaSuccess) {
    const bool enqueued = context.handle->enqueueV3(capture_stream_);
    status = cudaStreamEndCapture(capture_stream_, &recorded);
    if (status == cudaSuccess && enqueued) {
      status = cudaGraphInstantiate(&graph, recorded, 0);
    }
    if (recorded != nullptr) {
      (void)cudaGraphDestroy(recorded);
    }
  }
  if (graph == nullptr) {
    // The failure is reported here and must not be found by whoever asks CUDA next.
    (void)cudaGetLastError();
    context.distrust();
    possible_.store(false, std::memory_order_relaxed);
    TORCH_WARN("this engine runs without CUDA graphs, since an enqueue of it cannot be recorded: ",
               status == cudaSuccess ? ErrorRecorder::last_words() : cudaGetErrorString(status));
  } else {
    captures_.fetch_add(1, std::memory_order_relaxed);
  }
  return Graph(graph);
}

std::map<std::string, int64_t> GraphRunner::counters() const {
  return {{"graph_captures", captures_.load(std::memory_order_relaxed)},
          {"graph_replays", replays_.load(std::memory_order_relaxed)},
          {"graph_copies", copies_.load(std::memory_order_relaxed)}};
}

}  // namespace torch_trt_ext::tensorrt
