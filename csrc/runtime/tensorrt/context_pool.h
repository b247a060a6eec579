#pragma once

#include <ATen/core/Tensor.h>
#include <NvInferRuntime.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/FunctionRef.h>

#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/tensorrt/cuda_event.h"
#include "runtime/tensorrt/graph_cache.h"

namespace torch_trt_ext::tensorrt {

/// A stream, told from an earlier one with the same handle, since handles come back.
struct StreamKey {
  /// Whether it is one of torch's, which are never destroyed. Others have CUDA's number, which takes a call to ask for.
  bool is_torchs = true;
  unsigned long long number = 0;

  static StreamKey of(const c10::cuda::CUDAStream& stream);
  bool operator==(const StreamKey& other) const { return is_torchs == other.is_torchs && number == other.number; }
};

/// An execution context with what is bound to it, so that a call repeats only what changed. Used by the thread that
/// holds a lease on it.
struct Context {
  std::unique_ptr<nvinfer1::IExecutionContext> handle;
  StreamKey stream_key;
  size_t profile = 0;
  /// Shapes set by the last call, if shapes_known; with them, what follows from them.
  std::vector<std::vector<int64_t>> input_shapes;
  bool shapes_known = false;
  /// -1 where only the run tells.
  std::vector<std::vector<int64_t>> output_shapes;
  /// Activation memory those shapes need.
  size_t memory_bytes = 0;
  /// What is bound, or empty when that is not known.
  Addresses bound;
  /// Whether these shapes were enqueued before; TensorRT defers work to the first time.
  bool has_run = false;
  GraphCache graphs;
  /// Whether its layers are timed.
  bool profiled = false;
  /// Recorded after each enqueue; what must be over before another stream may use the context.
  CudaEvent last_use;
  /// Recorded, while inputs are tracked, when an enqueue has read them. Made with the context, since other threads may
  /// wait for it while this one is leased.
  CudaEvent inputs_read;
  /// Whether TensorRT records it.
  bool tracked = false;
  /// For calls from a stream that TensorRT cannot run on itself: recorded on the caller's stream before the enqueue.
  CudaEvent entered;
  /// The capture that took it out of circulation, or 0, and the stream that is captured, whose number CUDA does not
  /// tell meanwhile.
  unsigned long long capture_id = 0;
  cudaStream_t capture_stream = nullptr;
  int64_t last_ticket = 0;
  bool leased = false;

  bool has_shapes_of(const std::vector<at::Tensor>& inputs) const;
  /// For after a failure: the next call sets shapes and addresses again.
  void distrust();
  /// Has TensorRT record `inputs_read` in each enqueue, or stops it.
  void track_inputs(bool wanted);
};

/// Execution contexts of one engine, one for each stream and profile (and, on demand, shapes) in use: at most
/// kMaxContexts, and those that the caller's CUDA graphs hold.
///
/// A context's memory for activations is not its own but given call by call, so contexts are cheap to keep.
class ContextPool {
 public:
  static constexpr size_t kMaxContexts = 16;

  explicit ContextPool(nvinfer1::ICudaEngine& engine) : engine_(engine) {}

  /// Exclusive use of one context until destruction.
  class Lease {
   public:
    Lease(ContextPool& pool, Context& context) : pool_(pool), context_(context) {}
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() { pool_.release(context_); }
    Context& operator*() const { return context_; }
    Context* operator->() const { return &context_; }

   private:
    ContextPool& pool_;
    Context& context_;
  };

  /// A context that runs `profile` on `stream`, ordered after all it ran on other streams. With `one_a_shape`, one that
  /// runs only the shapes of `inputs` as long as there are contexts enough. Throws c10::Error when TensorRT cannot make
  /// one.
  Lease acquire(const c10::cuda::CUDAStream& stream, size_t profile, const std::vector<at::Tensor>& inputs,
                bool one_a_shape);

  /// A context for an enqueue that a CUDA graph captures on `stream`: the one that this capture holds already, or one
  /// that ran these shapes before and is not profiled, since TensorRT defers work to the first enqueue of a shape,
  /// which must not be captured. It leaves circulation for good, since replays use it without asking, and lives as long
  /// as the pool. Waits for what the context still runs. Throws c10::Error when no context ran these shapes.
  Lease acquire_for_capture(cudaStream_t stream, size_t profile, const std::vector<at::Tensor>& inputs);

  /// Puts a new context of TensorRT's in place of the one that `context`, which the caller leases, has: all that was
  /// set in it is gone. Waits for what it still runs.
  void renew(Context& context, cudaStream_t stream);

  /// Makes `stream` wait for what each context last recorded as `inputs_read`.
  void wait_for_inputs(cudaStream_t stream) const;

  size_t size() const;

  /// Waits for all calls and their work, destroys the contexts, and calls `action` before there is another one. Throws
  /// c10::Error when a caller's CUDA graph holds a context.
  void without_contexts(c10::function_ref<void()> action);

  /// Waits for all contexts' work and destroys them; for the owner's destructor.
  void finish() noexcept;

 private:
  using Contexts = std::list<Context>;

  Contexts::iterator find(const StreamKey& key, size_t profile, const std::vector<at::Tensor>& inputs,
                          bool one_a_shape);
  std::unique_ptr<nvinfer1::IExecutionContext> make_handle(cudaStream_t stream, size_t profile);
  Contexts::iterator create(cudaStream_t stream, const StreamKey& key, size_t profile);
  Contexts::iterator least_recently_used_idle();
  void move_to(Context& context, cudaStream_t stream, const StreamKey& key, size_t profile);
  void release(Context& context);

  nvinfer1::ICudaEngine& engine_;
  mutable std::mutex mutex_;
  std::condition_variable released_;
  Contexts contexts_;
  Contexts captured_;
  int64_t next_ticket_ = 0;
};

}  // namespace torch_trt_ext::tensorrt
