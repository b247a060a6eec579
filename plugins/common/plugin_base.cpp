#include "common/plugin_base.h"

#include <algorithm>
#include <memory>

#include "common/logging.h"
#include "common/plugin_fields.h"
#include "common/tensor_dims.h"

namespace torch_trt_ext::plugins {

using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

nvinfer1::IPluginCapability* PluginBase::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* PluginBase::clone() noexcept {
  PluginBase* cloned = nullptr;
  run_guarded(name_, [&] { cloned = copy(); });
  return cloned;
}

nvinfer1::IPluginV3* PluginBase::attachToContext(nvinfer1::IPluginResourceContext* /*context*/) noexcept {
  std::unique_ptr<PluginBase> attached;
  const int32_t failed = run_guarded(name_, [&] {
    attached.reset(copy());
    attached->prepare();
  });
  return failed != 0 ? nullptr : attached.release();
}

void PluginBase::check_counts(int32_t num_inputs, int32_t num_outputs) const {
  check_count("inputs", num_inputs, num_inputs_);
  check_count("outputs", num_outputs, num_outputs_);
}

int32_t PluginBase::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                    const DynamicPluginTensorDesc* /*outputs*/, int32_t num_outputs) noexcept {
  return run_guarded(name_, [&] {
    check_counts(num_inputs, num_outputs);
    check_shapes(largest_dims(inputs, num_inputs));
    tactics_ = tactics(tuned_dims(inputs, num_inputs));
  });
}

int32_t PluginBase::getValidTactics(int32_t* tactics, int32_t num_tactics) noexcept {
  return run_guarded(name_, [&] {
    check_count("tactics", num_tactics, static_cast<int32_t>(tactics_.size()));
    std::copy(tactics_.begin(), tactics_.end(), tactics);
  });
}

const char* PluginBase::getTimingCacheID() noexcept {
  const int32_t failed = run_guarded(name_, [&] {
    timing_cache_id_.clear();
    for (const nvinfer1::PluginField& field : serialized_fields()) {
      timing_cache_id_ += (timing_cache_id_.empty() ? "" : ",") + std::string(field.name) + "=" + value_text(field);
    }
  });
  return failed != 0 || tactics_.empty() ? nullptr : timing_cache_id_.c_str();
}

int32_t PluginBase::setTactic(int32_t tactic) noexcept {
  tactic_ = tactic;
  return 0;
}

size_t PluginBase::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                    const DynamicPluginTensorDesc* /*outputs*/,
                                    int32_t /*num_outputs*/) const noexcept {
  size_t size_bytes = 0;
  run_guarded(name_, [&] {
    const std::vector<Dims> dims = largest_dims(inputs, num_inputs);
    check_shapes(dims);
    size_bytes = workspace_bytes(dims);
  });
  return size_bytes;
}

int32_t PluginBase::onShapeChange(const PluginTensorDesc* inputs, int32_t num_inputs,
                                  const PluginTensorDesc* /*outputs*/, int32_t num_outputs) noexcept {
  return run_guarded(name_, [&] {
    check_counts(num_inputs, num_outputs);
    check_shapes(actual_dims(inputs, num_inputs));
    prepare();
  });
}

const nvinfer1::PluginFieldCollection* PluginBase::getFieldsToSerialize() noexcept {
  const int32_t failed = run_guarded(name_, [&] {
    fields_ = serialized_fields();
    field_collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  });
  return failed != 0 ? nullptr : &field_collection_;
}

}  // namespace torch_trt_ext::plugins
