#include "runtime/tensorrt/tensorrt_engine.h"

#include <ATen/Functions.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "runtime/tensorrt/dims.h"
#include "runtime/tensorrt/error_recorder.h"

namespace torch_trt_ext::tensorrt {
namespace {

/// TensorRT's requirement for every device address it is given.
constexpr uintptr_t kAlignmentBytes = 256;

std::vector<std::vector<int64_t>> shapes_of(const std::vector<at::Tensor>& tensors) {
  std::vector<std::vector<int64_t>> shapes;
  shapes.reserve(tensors.size());
  for (const at::Tensor& tensor : tensors) {
    shapes.push_back(tensor.sizes().vec());
  }
  return shapes;
}

bool is_misaligned(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kAlignmentBytes != 0;
}

/// `tensors`, with copies of those that a view moved off the alignment TensorRT needs.
std::vector<at::Tensor> aligned(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> result(tensors);
  for (at::Tensor& tensor : result) {
    if (tensor.is_cuda() && is_misaligned(tensor)) {
      tensor = tensor.clone();
    }
  }
  return result;
}

}  // namespace

TensorRTEngine::TensorRTEngine(std::unique_ptr<nvinfer1::ICudaEngine> engine, at::Device device)
    : device_(device),
      engine_(std::move(engine)),
      placeholder_(at::empty({256}, at::TensorOptions().dtype(at::kByte).device(device))),
      side_stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
      contexts_(*engine_) {
  read_tensors();
  read_profiles();
}

TensorRTEngine::~TensorRTEngine() {
  // Work of the last calls may still run, and the process may be on another GPU by now or past CUDA's end; a destructor
  // can report none of that.
  int previous = -1;
  (void)cudaGetDevice(&previous);
  (void)cudaSetDevice(device_.index());
  contexts_.finish();
  engine_.reset();
  if (previous >= 0) {
    (void)cudaSetDevice(previous);
  }
}

void TensorRTEngine::read_tensors() {
  for (int32_t index = 0; index < engine_->getNbIOTensors(); ++index) {
    const char* const name = engine_->getIOTensorName(index);
    const bool is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    const c10::optional<at::ScalarType> dtype = to_scalar_type(engine_->getTensorDataType(name));
    TORCH_CHECK(dtype.has_value(), "type of ", is_input ? "input" : "output", " '", name,
                "' must be one that torch tensors have, got TensorRT's number ",
                static_cast<int>(engine_->getTensorDataType(name)), "; build the engine with another type there");
    TORCH_CHECK(engine_->getTensorFormat(name) == nvinfer1::TensorFormat::kLINEAR, is_input ? "input" : "output", " '",
                name, "' must be in linear (row-major) format, got ", engine_->getTensorFormatDesc(name),
                "; build the engine with linear inputs and outputs");
    TensorInfo info;
    info.name = name;
    info.dtype = *dtype;
    info.shape = to_sizes(engine_->getTensorShape(name));
    info.on_host = engine_->getTensorLocation(name) == nvinfer1::TensorLocation::kHOST;
    (is_input ? inputs_ : outputs_).push_back(std::move(info));
  }
}

void TensorRTEngine::read_profiles() {
  for (int32_t index = 0; index < engine_->getNbOptimizationProfiles(); ++index) {
    Profile& profile = profiles_.emplace_back();
    for (const TensorInfo& input : inputs_) {
      // A shape tensor's profile bounds its values, which TensorRT checks itself; its own shape is static.
      const bool bounds_shape = !input.on_host;
      const auto bound = [&](nvinfer1::OptProfileSelector which) {
        return bounds_shape ? to_sizes(engine_->getProfileShape(input.name.c_str(), index, which)) : input.shape;
      };
      profile.push_back({bound(nvinfer1::OptProfileSelector::kMIN), bound(nvinfer1::OptProfileSelector::kOPT),
                         bound(nvinfer1::OptProfileSelector::kMAX)});
    }
  }
}

std::vector<at::Tensor> TensorRTEngine::run(const std::vector<at::Tensor>& inputs, size_t profile) {
  const c10::cuda::CUDAGuard device_guard(device_);
  const c10::cuda::CUDAStream caller = c10::cuda::getCurrentCUDAStream(device_.index());
  const bool capturing = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  const bool hop = caller == c10::cuda::getDefaultCUDAStream(device_.index()) && !capturing;
  const cudaStream_t stream = hop ? side_stream_.stream() : caller.stream();

  const std::vector<at::Tensor> bound_inputs = aligned(inputs);
  // The host waits for what the context still runs, which a capture forbids unless the thread says that it knows why.
  c10::optional<c10::cuda::CUDAStreamCaptureModeGuard> capture_mode;
  if (capturing) {
    capture_mode.emplace(cudaStreamCaptureModeRelaxed);
  }
  const ContextPool::Lease context = capturing ? contexts_.acquire_for_capture(stream, profile, shapes_of(bound_inputs))
                                               : contexts_.acquire(stream, profile);

  bind_inputs(*context, bound_inputs);
  std::vector<OutputAllocator> allocators;
  std::vector<at::Tensor> outputs = bind_outputs(*context, allocators);
  // Freed when this call returns; the caching allocator hands it out again in the order of the caller's stream.
  const c10::DataPtr memory = c10::cuda::CUDACachingAllocator::get()->allocate(context->memory_bytes);
  if (context->memory_bytes > 0) {
    context->handle->setDeviceMemoryV2(memory.get(), static_cast<int64_t>(context->memory_bytes));
  }

  if (hop) {
    // Recorded after the last allocation, so that whatever used the memory before is over on both streams.
    context->entered.record(caller.stream());
    context->entered.block(stream);
  }
  try {
    enqueue(*context, stream, allocators);
  } catch (...) {
    // Kernels of the part that was enqueued still use memory that this call gives back on its way out.
    if (!capturing) {
      (void)cudaStreamSynchronize(stream);
    }
    throw;
  }
  if (!capturing) {
    context->last_use.record(stream);
  }
  if (hop) {
    context->last_use.block(caller.stream());
  }

  auto allocator = allocators.begin();
  for (at::Tensor& output : outputs) {
    if (!output.defined()) {
      output = (allocator++)->take();
      if (hop) {
        c10::cuda::CUDACachingAllocator::recordStream(output.storage().data_ptr(), caller);
      }
    }
  }
  return outputs;
}

void TensorRTEngine::bind_inputs(Context& context, const std::vector<at::Tensor>& inputs) const {
  std::vector<std::vector<int64_t>> shapes = shapes_of(inputs);
  // What a shape tensor holds is part of the shapes, and is read at the enqueue.
  const bool has_shape_tensor =
      std::any_of(inputs_.begin(), inputs_.end(), [](const TensorInfo& input) { return input.on_host; });
  const bool same_shapes = !has_shape_tensor && context.shapes_known && shapes == context.input_shapes;
  if (!same_shapes) {
    // Known again once all are set: a failure in between must not leave a mixture that the next call takes for whole.
    context.shapes_known = false;
  }
  ErrorRecorder::forget();
  for (size_t index = 0; index < inputs.size(); ++index) {
    const char* const name = inputs_[index].name.c_str();
    if (!same_shapes) {
      TORCH_CHECK(context.handle->setInputShape(name, to_dims(inputs[index].sizes())), "input '", name,
                  "' must have a shape that TensorRT accepts, got ", inputs[index].sizes(),
                  "; pass a shape in the range of a profile (TensorRT said: ", ErrorRecorder::last_words(), ")");
    }
    const void* const address =
        inputs[index].numel() == 0 ? placeholder_.const_data_ptr() : inputs[index].const_data_ptr();
    TORCH_CHECK(context.handle->setInputTensorAddress(name, address), "TensorRT must accept the address of input '",
                name, "', it did not: ", ErrorRecorder::last_words());
  }
  if (!same_shapes) {
    context.memory_bytes = context.handle->updateDeviceMemorySizeForShapes();
    context.input_shapes = std::move(shapes);
    context.shapes_known = true;
  }
}

std::vector<at::Tensor> TensorRTEngine::bind_outputs(Context& context, std::vector<OutputAllocator>& allocators) const {
  std::vector<at::Tensor> outputs(outputs_.size());
  // TensorRT keeps the allocators' addresses, so the vector must not grow past what is reserved.
  allocators.reserve(outputs_.size());
  for (size_t index = 0; index < outputs_.size(); ++index) {
    const TensorInfo& info = outputs_[index];
    const char* const name = info.name.c_str();
    const std::vector<int64_t> shape = to_sizes(context.handle->getTensorShape(name));
    const bool known = std::all_of(shape.begin(), shape.end(), [](int64_t size) { return size >= 0; });
    if (known) {
      outputs[index] =
          at::empty(shape, at::TensorOptions().dtype(info.dtype).device(info.on_host ? at::kCPU : device_));
      void* const address =
          outputs[index].numel() == 0 ? placeholder_.mutable_data_ptr() : outputs[index].mutable_data_ptr();
      TORCH_CHECK(context.handle->setTensorAddress(name, address), "TensorRT must accept the address of output '", name,
                  "', it did not: ", ErrorRecorder::last_words());
    } else {
      allocators.emplace_back(info.dtype, device_);
      context.handle->setTensorAddress(name, nullptr);
      TORCH_CHECK(context.handle->setOutputAllocator(name, &allocators.back()),
                  "TensorRT must accept an allocator for output '", name,
                  "', it did not: ", ErrorRecorder::last_words());
    }
  }
  return outputs;
}

void TensorRTEngine::enqueue(Context& context, cudaStream_t stream, std::vector<OutputAllocator>& allocators) const {
  ErrorRecorder::forget();
  const bool enqueued = context.handle->enqueueV3(stream);
  if (!allocators.empty()) {
    // They live as long as this call; the context must not keep their addresses.
    for (const TensorInfo& output : outputs_) {
      context.handle->setOutputAllocator(output.name.c_str(), nullptr);
    }
  }
  if (!enqueued) {
    // Whatever state the failure left is not trusted: the next call binds everything again.
    context.shapes_known = false;
    for (OutputAllocator& allocator : allocators) {
      allocator.rethrow_failure();
    }
    TORCH_CHECK(false,
                "TensorRT must enqueue the engine, it did not; a smaller batch may help if memory ran out (TensorRT ",
                "said: ", ErrorRecorder::last_words(), ")");
  }
}

std::map<std::string, int64_t> TensorRTEngine::counters() const {
  return {{"contexts", static_cast<int64_t>(contexts_.size())}};
}

}  // namespace torch_trt_ext::tensorrt
