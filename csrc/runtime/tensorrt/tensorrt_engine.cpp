#include "runtime/tensorrt/tensorrt_engine.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "runtime/tensorrt/dims.h"
#include "runtime/tensorrt/error_recorder.h"

namespace torch_trt_ext::tensorrt {
namespace {

/// TensorRT's requirement for every device address it is given.
constexpr uintptr_t kAlignmentBytes = 256;

bool is_misaligned(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kAlignmentBytes != 0;
}

/// Puts copies in place of those that a view moved off the alignment TensorRT needs.
void align(std::vector<at::Tensor>& tensors) {
  for (at::Tensor& tensor : tensors) {
    if (tensor.is_cuda() && is_misaligned(tensor)) {
      tensor = tensor.clone();
    }
  }
}

bool is_known(const std::vector<int64_t>& shape) {
  return std::all_of(shape.begin(), shape.end(), [](int64_t size) { return size >= 0; });
}

}  // namespace

TensorRTEngine::TensorRTEngine(std::unique_ptr<nvinfer1::ICudaEngine> engine, at::Device device)
    : device_(device),
      engine_(std::move(engine)),
      placeholder_(at::empty({256}, at::TensorOptions().dtype(at::kByte).device(device))),
      side_stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
      contexts_(*engine_),
      graphs_(device) {
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
    has_host_tensors_ = has_host_tensors_ || info.on_host;
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

std::vector<at::Tensor> TensorRTEngine::run(std::vector<at::Tensor> inputs, size_t profile) {
  const c10::cuda::CUDAGuard device_guard(device_);
  const c10::cuda::CUDAStream caller = c10::cuda::getCurrentCUDAStream(device_.index());
  const bool capturing = c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
  const bool hop = caller == c10::cuda::getDefaultCUDAStream(device_.index()) && !capturing;
  const c10::cuda::CUDAStream runs_on = hop ? side_stream_ : caller;
  const cudaStream_t stream = runs_on.stream();

  align(inputs);
  // The host waits for what the context still runs, which a capture forbids unless the thread says that it knows why.
  c10::optional<c10::cuda::CUDAStreamCaptureModeGuard> capture_mode;
  if (capturing) {
    capture_mode.emplace(cudaStreamCaptureModeRelaxed);
  }
  const bool profiled = !capturing && profiling_.load(std::memory_order_relaxed);
  const bool tracked = !capturing && tracking_.load(std::memory_order_relaxed);
  const bool graphs = !capturing && !profiled && !has_host_tensors_ && graphs_.active();
  const ContextPool::Lease context = capturing ? contexts_.acquire_for_capture(stream, profile, inputs)
                                               : contexts_.acquire(runs_on, profile, inputs, graphs);

  attach_profiler(*context, profiled, stream);
  set_shapes(*context, inputs);
  std::vector<at::Tensor> outputs = allocate_outputs(*context);
  // Freed when this call returns; the caching allocator hands it out again in the order of the caller's stream.
  const c10::DataPtr memory = context->memory_bytes == 0
                                  ? c10::DataPtr()
                                  : c10::cuda::CUDACachingAllocator::get()->allocate(context->memory_bytes);
  const Addresses addresses = addresses_of(inputs, outputs, memory.get());
  const bool outputs_known =
      std::all_of(outputs.begin(), outputs.end(), [](const at::Tensor& output) { return output.defined(); });
  if (graphs && outputs_known) {
    const auto bind_all = [&](const Addresses& all) {
      std::vector<OutputAllocator> none;
      bind(*context, all, none);
    };
    const auto find_all = [this](const std::vector<at::Tensor>& given, const std::vector<at::Tensor>& results,
                                 const void* scratch) { return addresses_of(given, results, scratch); };
    if (graphs_.run(*context, {inputs, outputs, addresses, caller.stream(), tracked, bind_all, find_all})) {
      return outputs;
    }
    // Nothing to do, unless a recording failed.
    set_shapes(*context, inputs);
  }

  std::vector<OutputAllocator> allocators;
  bind(*context, addresses, allocators);
  context->track_inputs(tracked);
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

void TensorRTEngine::set_shapes(Context& context, const std::vector<at::Tensor>& inputs) const {
  // What a shape tensor holds is part of the shapes, and is read at the enqueue.
  if (!has_host_tensors_ && context.has_shapes_of(inputs)) {
    return;
  }
  // Known again once all are set: a failure in between must not leave a mixture that the next call takes for whole.
  context.distrust();
  context.has_run = false;
  if (context.graphs.staged != nullptr) {
    // What it runs may be on another stream than its memory was taken on.
    C10_CUDA_CHECK(context.last_use.synchronize());
  }
  context.graphs.clear();
  context.input_shapes.clear();
  ErrorRecorder::forget();
  for (size_t index = 0; index < inputs.size(); ++index) {
    const char* const name = inputs_[index].name.c_str();
    TORCH_CHECK(context.handle->setInputShape(name, to_dims(inputs[index].sizes())), "input '", name,
                "' must have a shape that TensorRT accepts, got ", inputs[index].sizes(),
                "; pass a shape in the range of a profile (TensorRT said: ", ErrorRecorder::last_words(), ")");
    context.input_shapes.push_back(inputs[index].sizes().vec());
    if (inputs_[index].on_host) {
      // TensorRT reads the values when it is asked for what follows from them.
      bind_input(context, index, address_of(inputs[index]));
    }
  }
  context.memory_bytes = context.handle->updateDeviceMemorySizeForShapes();
  context.output_shapes.clear();
  for (const TensorInfo& output : outputs_) {
    context.output_shapes.push_back(to_sizes(context.handle->getTensorShape(output.name.c_str())));
  }
  context.shapes_known = true;
}

void TensorRTEngine::bind_input(Context& context, size_t index, const void* address) const {
  const char* const name = inputs_[index].name.c_str();
  TORCH_CHECK(context.handle->setInputTensorAddress(name, address), "TensorRT must accept the address of input '", name,
              "', it did not: ", ErrorRecorder::last_words());
}

std::vector<at::Tensor> TensorRTEngine::allocate_outputs(const Context& context) const {
  std::vector<at::Tensor> outputs(outputs_.size());
  for (size_t index = 0; index < outputs_.size(); ++index) {
    if (is_known(context.output_shapes[index])) {
      const TensorInfo& info = outputs_[index];
      // As at::empty, without a trip through the dispatcher.
      outputs[index] = info.on_host ? at::empty(context.output_shapes[index], at::TensorOptions().dtype(info.dtype))
                                    : at::Tensor(at::detail::empty_generic(
                                          context.output_shapes[index], c10::cuda::CUDACachingAllocator::get(),
                                          c10::DispatchKeySet(c10::DispatchKey::CUDA), info.dtype, c10::nullopt));
    }
  }
  return outputs;
}

const void* TensorRTEngine::address_of(const at::Tensor& tensor) const {
  if (!tensor.defined()) {
    return nullptr;
  }
  return tensor.numel() == 0 ? placeholder_.const_data_ptr() : tensor.const_data_ptr();
}

Addresses TensorRTEngine::addresses_of(const std::vector<at::Tensor>& inputs, const std::vector<at::Tensor>& outputs,
                                       const void* memory) const {
  Addresses addresses;
  addresses.reserve(inputs.size() + outputs.size() + 1);
  for (const std::vector<at::Tensor>* const tensors : {&inputs, &outputs}) {
    for (const at::Tensor& tensor : *tensors) {
      addresses.push_back(address_of(tensor));
    }
  }
  addresses.push_back(memory);
  return addresses;
}

void TensorRTEngine::bind(Context& context, const Addresses& addresses,
                          std::vector<OutputAllocator>& allocators) const {
  // A failure in between leaves nothing that the next call would take for bound.
  const Addresses bound = std::exchange(context.bound, {});
  const auto changed = [&](size_t index) { return bound.empty() || bound[index] != addresses[index]; };
  ErrorRecorder::forget();
  for (size_t index = 0; index < inputs_.size(); ++index) {
    if (changed(index)) {
      bind_input(context, index, addresses[index]);
    }
  }
  // TensorRT keeps the allocators' addresses, so the vector must not grow past what is reserved.
  allocators.reserve(outputs_.size());
  for (size_t index = 0; index < outputs_.size(); ++index) {
    const size_t place = inputs_.size() + index;
    const char* const name = outputs_[index].name.c_str();
    if (addresses[place] == nullptr) {
      allocators.emplace_back(outputs_[index].dtype, device_);
      context.handle->setTensorAddress(name, nullptr);
      TORCH_CHECK(context.handle->setOutputAllocator(name, &allocators.back()),
                  "TensorRT must accept an allocator for output '", name,
                  "', it did not: ", ErrorRecorder::last_words());
    } else if (changed(place)) {
      // The engine writes there; the address is that of a tensor made for it.
      TORCH_CHECK(context.handle->setTensorAddress(name, const_cast<void*>(addresses[place])),
                  "TensorRT must accept the address of output '", name, "', it did not: ", ErrorRecorder::last_words());
    }
  }
  if (context.memory_bytes > 0 && changed(addresses.size() - 1)) {
    context.handle->setDeviceMemoryV2(const_cast<void*>(addresses.back()), static_cast<int64_t>(context.memory_bytes));
  }
  context.bound = addresses;
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
    context.distrust();
    for (OutputAllocator& allocator : allocators) {
      allocator.rethrow_failure();
    }
    TORCH_CHECK(false,
                "TensorRT must enqueue the engine, it did not; a smaller batch may help if memory ran out (TensorRT ",
                "said: ", ErrorRecorder::last_words(), ")");
  }
  context.has_run = true;
}

void TensorRTEngine::attach_profiler(Context& context, bool wanted, cudaStream_t stream) {
  if (wanted && !context.profiled) {
    // TensorRT reports layer by layer within enqueueV3, which waits for the GPU then.
    context.handle->setProfiler(&profiler_);
    context.profiled = true;
  } else if (!wanted && context.profiled) {
    // TensorRT 10.6 goes on reporting after setProfiler(nullptr).
    contexts_.renew(context, stream);
  }
}

void TensorRTEngine::set_profiling(bool enabled) {
  if (enabled && !profiling_.load(std::memory_order_relaxed)) {
    profiler_.times.clear();
  }
  profiling_.store(enabled, std::memory_order_relaxed);
}

void TensorRTEngine::wait_for_inputs() {
  const c10::cuda::CUDAGuard device_guard(device_);
  contexts_.wait_for_inputs(c10::cuda::getCurrentCUDAStream(device_.index()).stream());
}

void TensorRTEngine::set_weight_budget(int64_t bytes) {
  const c10::cuda::CUDAGuard device_guard(device_);
  // TensorRT changes it only while there is no context.
  contexts_.without_contexts([&] {
    ErrorRecorder::forget();
    TORCH_CHECK(engine_->setWeightStreamingBudgetV2(std::min(bytes, streamable_weight_bytes())),
                "TensorRT must accept a budget of ", bytes,
                " bytes for weights, it did not: ", ErrorRecorder::last_words());
  });
}

std::string TensorRTEngine::layer_info() const {
  ErrorRecorder::forget();
  const std::unique_ptr<nvinfer1::IEngineInspector> inspector(engine_->createEngineInspector());
  const char* const text =
      inspector == nullptr ? nullptr : inspector->getEngineInformation(nvinfer1::LayerInformationFormat::kJSON);
  TORCH_CHECK(text != nullptr, "TensorRT must describe the engine's layers, it did not: ", ErrorRecorder::last_words());
  return text;
}

std::map<std::string, int64_t> TensorRTEngine::counters() const {
  std::map<std::string, int64_t> counters = graphs_.counters();
  counters["contexts"] = static_cast<int64_t>(contexts_.size());
  return counters;
}

}  // namespace torch_trt_ext::tensorrt
