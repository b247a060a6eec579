#include "runtime/tensorrt/context_pool.h"

#include <c10/cuda/CUDAException.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "runtime/tensorrt/error_recorder.h"

namespace torch_trt_ext::tensorrt {

StreamKey StreamKey::of(const c10::cuda::CUDAStream& stream) {
  const cudaStream_t handle = stream.stream();
  // Torch's number of a stream that it did not make is the handle.
  if (stream.id() != static_cast<c10::StreamId>(reinterpret_cast<intptr_t>(handle))) {
    return {true, static_cast<unsigned long long>(stream.id())};
  }
  StreamKey key{false, 0};
  C10_CUDA_CHECK(cudaStreamGetId(handle, &key.number));
  return key;
}

bool Context::has_shapes_of(const std::vector<at::Tensor>& inputs) const {
  return shapes_known && std::equal(inputs.begin(), inputs.end(), input_shapes.begin(), input_shapes.end(),
                                    [](const at::Tensor& input, const std::vector<int64_t>& shape) {
                                      return input.sizes() == at::IntArrayRef(shape);
                                    });
}

void Context::distrust() {
  shapes_known = false;
  bound.clear();
}

void Context::track_inputs(bool wanted) {
  if (tracked != wanted) {
    TORCH_CHECK(handle->setInputConsumedEvent(wanted ? inputs_read.handle() : nullptr),
                "TensorRT must accept an event for when inputs are read, it did not: ", ErrorRecorder::last_words());
    tracked = wanted;
  }
}

ContextPool::Contexts::iterator ContextPool::find(const StreamKey& key, size_t profile,
                                                  const std::vector<at::Tensor>& inputs, bool one_a_shape) {
  return std::find_if(contexts_.begin(), contexts_.end(), [&](const Context& context) {
    if (!(context.stream_key == key) || context.profile != profile) {
      return false;
    }
    // Shapes may be read only while nobody sets them.
    return !one_a_shape || (!context.leased && context.has_shapes_of(inputs));
  });
}

ContextPool::Lease ContextPool::acquire(const c10::cuda::CUDAStream& stream, size_t profile,
                                        const std::vector<at::Tensor>& inputs, bool one_a_shape) {
  const StreamKey key = StreamKey::of(stream);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    const auto found = find(key, profile, inputs, one_a_shape);
    if (found != contexts_.end() && !found->leased) {
      found->leased = true;
      return Lease(*this, *found);
    }
    // A context of this stream that is in use is waited for: what it runs comes first on the stream in any case.
    if (found == contexts_.end()) {
      auto candidate = contexts_.end();
      if (contexts_.size() < kMaxContexts) {
        candidate = create(stream.stream(), key, profile);
      } else {
        candidate = least_recently_used_idle();
        if (candidate != contexts_.end()) {
          move_to(*candidate, stream.stream(), key, profile);
        }
      }
      if (candidate != contexts_.end()) {
        candidate->leased = true;
        return Lease(*this, *candidate);
      }
    }
    released_.wait(lock);
  }
}

ContextPool::Lease ContextPool::acquire_for_capture(cudaStream_t stream, size_t profile,
                                                    const std::vector<at::Tensor>& inputs) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long capture_id = 0;
  C10_CUDA_CHECK(cudaStreamGetCaptureInfo(stream, &status, &capture_id));
  const auto ran_shapes = [profile, &inputs](const Context& context) {
    return !context.leased && !context.profiled && context.profile == profile && context.has_run &&
           context.has_shapes_of(inputs);
  };
  const std::lock_guard<std::mutex> lock(mutex_);
  // One stream of one capture runs one call after the other in each replay.
  auto found = std::find_if(captured_.begin(), captured_.end(), [&](const Context& context) {
    return ran_shapes(context) && context.capture_id == capture_id && context.capture_stream == stream;
  });
  if (found == captured_.end()) {
    const auto warm = std::find_if(contexts_.begin(), contexts_.end(), ran_shapes);
    TORCH_CHECK(
        warm != contexts_.end(),
        "an engine must have run these shapes before a CUDA graph captures it, and once "
        "more for each further graph, not profiled, it has not; call forward with inputs of these shapes before "
        "the capture");
    // A captured stream cannot wait for work outside the capture, so the host does.
    C10_CUDA_CHECK(warm->last_use.synchronize());
    warm->capture_id = capture_id;
    warm->capture_stream = stream;
    captured_.splice(captured_.end(), contexts_, warm);
    found = std::prev(captured_.end());
  }
  found->leased = true;
  return Lease(*this, *found);
}

void ContextPool::finish() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Contexts* const contexts : {&contexts_, &captured_}) {
    for (const Context& context : *contexts) {
      (void)context.last_use.synchronize();
    }
    contexts->clear();
  }
}

void ContextPool::without_contexts(c10::function_ref<void()> action) {
  std::unique_lock<std::mutex> lock(mutex_);
  released_.wait(lock, [this] {
    return std::none_of(contexts_.begin(), contexts_.end(), [](const Context& context) { return context.leased; });
  });
  TORCH_CHECK(captured_.empty(), "the engine must not be in a CUDA graph now, it is in one or more (", captured_.size(),
              " contexts); do this before the capture");
  for (const Context& context : contexts_) {
    C10_CUDA_CHECK(context.last_use.synchronize());
  }
  contexts_.clear();
  action();
}

void ContextPool::renew(Context& context, cudaStream_t stream) {
  C10_CUDA_CHECK(context.last_use.synchronize());
  std::unique_ptr<nvinfer1::IExecutionContext> handle = make_handle(stream, context.profile);
  const std::lock_guard<std::mutex> lock(mutex_);
  context.handle = std::move(handle);
  context.distrust();
  context.has_run = false;
  context.graphs.clear();
  context.profiled = false;
  context.tracked = false;
}

void ContextPool::wait_for_inputs(cudaStream_t stream) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Context& context : contexts_) {
    context.inputs_read.block(stream);
  }
}

size_t ContextPool::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return contexts_.size() + captured_.size();
}

std::unique_ptr<nvinfer1::IExecutionContext> ContextPool::make_handle(cudaStream_t stream, size_t profile) {
  ErrorRecorder::forget();
  std::unique_ptr<nvinfer1::IExecutionContext> handle(
      engine_.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
  TORCH_CHECK(handle != nullptr,
              "TensorRT must give an execution context, got none; free GPU memory if it ran out (TensorRT said: ",
              ErrorRecorder::last_words(), ")");
  if (engine_.getNbOptimizationProfiles() > 1) {
    TORCH_CHECK(handle->setOptimizationProfileAsync(static_cast<int32_t>(profile), stream),
                "TensorRT must accept profile ", profile, ", it did not: ", ErrorRecorder::last_words());
  }
  return handle;
}

ContextPool::Contexts::iterator ContextPool::create(cudaStream_t stream, const StreamKey& key, size_t profile) {
  std::unique_ptr<nvinfer1::IExecutionContext> handle = make_handle(stream, profile);
  Context& context = contexts_.emplace_back();
  context.handle = std::move(handle);
  (void)context.inputs_read.handle();
  context.stream_key = key;
  context.profile = profile;
  return std::prev(contexts_.end());
}

ContextPool::Contexts::iterator ContextPool::least_recently_used_idle() {
  auto oldest = contexts_.end();
  for (auto context = contexts_.begin(); context != contexts_.end(); ++context) {
    if (!context->leased && (oldest == contexts_.end() || context->last_ticket < oldest->last_ticket)) {
      oldest = context;
    }
  }
  return oldest;
}

void ContextPool::move_to(Context& context, cudaStream_t stream, const StreamKey& key, size_t profile) {
  context.last_use.block(stream);
  if (context.profile != profile) {
    ErrorRecorder::forget();
    // Until the new profile is in, the context belongs to no call that could find it.
    context.distrust();
    TORCH_CHECK(context.handle->setOptimizationProfileAsync(static_cast<int32_t>(profile), stream),
                "TensorRT must accept profile ", profile, ", it did not: ", ErrorRecorder::last_words());
  }
  context.stream_key = key;
  context.profile = profile;
}

void ContextPool::release(Context& context) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    context.leased = false;
    context.last_ticket = ++next_ticket_;
  }
  released_.notify_all();
}

}  // namespace torch_trt_ext::tensorrt
