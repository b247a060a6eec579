#include "runtime/engine_extension.h"

#include <ATen/Functions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>

#include <cstring>

#include "runtime/plugin_names.h"

namespace torch_trt_ext {
namespace {

at::Tensor to_plan_tensor(const std::string& bytes) {
  at::Tensor plan = at::empty({static_cast<int64_t>(bytes.size())}, at::TensorOptions().dtype(at::kByte));
  if (!bytes.empty()) {
    std::memcpy(plan.mutable_data_ptr(), bytes.data(), bytes.size());
  }
  return plan;
}

LoadResult load_plan(const std::string& kind, const at::Tensor& plan, c10::optional<at::Device> device) {
  Backend* const backend = find_backend(kind);
  if (backend == nullptr) {
    LoadResult result;
    result.misfit = std::make_unique<Misfit>(Misfit{Misfit::Kind::kMissingRuntime, explain_missing_runtime(kind)});
    return result;
  }
  backend->check_plan(plan);
  return backend->load(plan, device);
}

}  // namespace

EngineExtension::EngineExtension(std::string kind, const std::string& plan, const IoNames& io_names)
    : kind_(std::move(kind)) {
  state_.plan = to_plan_tensor(plan);
  state_.io = parse_io_spec(io_names);
  load(/*from_user=*/true, c10::nullopt);
  if (const Backend* const backend = find_backend(kind_); backend != nullptr && engine_ != nullptr) {
    state_.made_on = backend->describe_environment();
    state_.plugin_libraries = opened_plugin_names();
  }
}

EngineExtension::EngineExtension(std::string kind, const PackedState& packed)
    : kind_(std::move(kind)), state_(unpack_state(packed)) {
  // torch.jit.load(map_location=...) moves the plan, as all tensors, to where the model is to run.
  const at::Tensor& plan = std::get<1>(packed);
  load(/*from_user=*/false, plan.is_cuda() ? c10::make_optional(plan.device()) : c10::nullopt);
  set_cuda_graphs(state_.cuda_graphs);
  if (engine_ != nullptr && state_.weight_budget.has_value() && engine_->streamable_weight_bytes() > 0) {
    engine_->set_weight_budget(*state_.weight_budget);
  }
}

void EngineExtension::load(bool from_user, c10::optional<at::Device> device) {
  open_plugins_by_name(state_.plugin_libraries);
  LoadResult result = load_plan(kind_, state_.plan, device);
  if (result.engine == nullptr) {
    TORCH_INTERNAL_ASSERT(result.misfit != nullptr);
    why_not_ = result.misfit->message;
    TORCH_CHECK(!from_user || result.misfit->kind == Misfit::Kind::kMissingRuntime, why_not_);
    const Backend* const backend = find_backend(kind_);
    const std::string difference = backend == nullptr ? "" : backend->explain_difference(state_.made_on);
    if (!difference.empty()) {
      why_not_ += " (" + difference + ")";
    }
    const std::string plugins = describe_missing_plugins(state_.plugin_libraries);
    if (!plugins.empty()) {
      why_not_ += " (" + plugins + ")";
    }
    return;
  }
  binding_ = std::make_unique<IoBinding>(state_.io, *result.engine);
  state_.shapes = shapes_of(state_.io, *result.engine);
  engine_ = std::move(result.engine);
}

std::vector<at::Tensor> EngineExtension::forward(std::vector<at::Tensor> inputs) {
  TORCH_CHECK(engine_ != nullptr, "this engine cannot run here: ", why_not_);
  c10::optional<at::RecordFunction> range;
  if (auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::FUNCTION);
      C10_UNLIKELY(callbacks.has_value())) {
    const std::string called = name();
    range.emplace(std::move(*callbacks));
    range->before("torch_trt_ext::" + (called.empty() ? kind_ : called));
  }
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  size_t profile = 0;
  std::vector<at::Tensor> bound = binding_->bind(std::move(inputs), profile);
  std::vector<at::Tensor> outputs = binding_->unbind(engine_->run(std::move(bound), profile));
  calls_.fetch_add(1, std::memory_order_relaxed);
  return outputs;
}

bool EngineExtension::can_run_with(at::TensorList inputs) const {
  return engine_ != nullptr && binding_->accepts(inputs);
}

void EngineExtension::set_cuda_graphs(bool enabled) {
  const std::lock_guard<std::mutex> lock(settings_mutex_);
  state_.cuda_graphs = enabled;
  if (engine_ != nullptr) {
    engine_->use_cuda_graphs(enabled);
  }
}

bool EngineExtension::cuda_graphs() const {
  const std::lock_guard<std::mutex> lock(settings_mutex_);
  return state_.cuda_graphs;
}

void EngineExtension::set_name(const std::string& name) {
  const std::lock_guard<std::mutex> lock(settings_mutex_);
  state_.name = name;
}

std::string EngineExtension::name() const {
  const std::lock_guard<std::mutex> lock(settings_mutex_);
  return state_.name;
}

void EngineExtension::set_weight_budget(int64_t bytes) {
  TORCH_CHECK_VALUE(streamable_weight_bytes() > 0,
                    "an engine must be built with weight streaming to have a budget for weights, this one was not; ",
                    "build it with config.tensorrt.weight_streaming = True");
  TORCH_CHECK_VALUE(bytes >= 0, "the budget for weights must be 0 bytes or more, got ", bytes);
  const std::lock_guard<std::mutex> lock(settings_mutex_);
  engine_->set_weight_budget(bytes);
  state_.weight_budget = bytes;
}

void EngineExtension::set_input_tracking(bool enabled) {
  if (engine_ != nullptr) {
    engine_->set_input_tracking(enabled);
  }
}

void EngineExtension::wait_for_inputs() {
  if (engine_ != nullptr) {
    engine_->wait_for_inputs();
  }
}

void EngineExtension::set_profiling(bool enabled) {
  (void)required_engine();
  engine_->set_profiling(enabled);
}

std::vector<std::tuple<std::string, int64_t, double>> EngineExtension::profile() const {
  std::vector<std::tuple<std::string, int64_t, double>> rows;
  for (const LayerTime& layer : required_engine().profile()) {
    rows.emplace_back(layer.name, layer.calls, layer.milliseconds);
  }
  return rows;
}

PackedState EngineExtension::state() const {
  const std::lock_guard<std::mutex> lock(settings_mutex_);
  return pack_state(state_);
}

const Engine& EngineExtension::required_engine() const {
  TORCH_CHECK(engine_ != nullptr, "what is inside this engine is not known, since it cannot run here: ", why_not_);
  return *engine_;
}

const IoShapes& EngineExtension::known_shapes() const {
  TORCH_CHECK(
      state_.shapes.known(),
      "the shapes of this engine are not known, since it cannot run here and was saved without them: ", why_not_);
  return state_.shapes;
}

std::vector<std::vector<std::vector<std::vector<int64_t>>>> EngineExtension::profiles() const {
  std::vector<std::vector<std::vector<std::vector<int64_t>>>> profiles;
  for (const Profile& profile : known_shapes().profiles) {
    auto& ranges = profiles.emplace_back();
    for (const ShapeRange& range : profile) {
      ranges.push_back({range.min, range.opt, range.max});
    }
  }
  return profiles;
}

c10::Dict<std::string, int64_t> EngineExtension::counters() const {
  c10::Dict<std::string, int64_t> counters;
  counters.insert("calls", calls_.load(std::memory_order_relaxed));
  counters.insert("fallbacks", fallbacks_.load(std::memory_order_relaxed));
  if (engine_ != nullptr) {
    for (const auto& [name, count] : engine_->counters()) {
      counters.insert(name, count);
    }
  }
  return counters;
}

IoNames read_io_names(const std::string& kind, const std::string& plan) {
  const LoadResult result = load_plan(kind, to_plan_tensor(plan), c10::nullopt);
  TORCH_CHECK(result.engine != nullptr, "names and types can be read off a plan only where it runs: ",
              result.misfit ? result.misfit->message : "", "; or give them to the constructor");
  IoSpec spec;
  for (const TensorInfo& tensor : result.engine->inputs()) {
    spec.input_names.push_back(tensor.name);
    spec.input_types.push_back(tensor.dtype);
  }
  for (const TensorInfo& tensor : result.engine->outputs()) {
    spec.output_names.push_back(tensor.name);
    spec.output_types.push_back(tensor.dtype);
  }
  return to_io_names(spec);
}

}  // namespace torch_trt_ext
