#pragma once

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace torch_trt_ext::plugins {

/// What every plugin of this library tells TensorRT in the same way: its interfaces, its name, its copies, its fields,
/// its tactics, and that shapes are checked whenever they are known better. Whatever throws becomes TensorRT's error.
class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuild,
                   public nvinfer1::IPluginV3OneRuntime {
 public:
  static constexpr const char* kVersion = "1";

  PluginBase& operator=(const PluginBase&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
  nvinfer1::IPluginV3* clone() noexcept final;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;

  const char* getPluginName() const noexcept final { return name_; }
  const char* getPluginVersion() const noexcept final { return kVersion; }
  const char* getPluginNamespace() const noexcept final { return ""; }

  int32_t getNbOutputs() const noexcept final { return num_outputs_; }
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t num_outputs) noexcept final;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t num_outputs) const noexcept final;
  int32_t getNbTactics() noexcept final { return static_cast<int32_t>(tactics_.size()); }
  int32_t getValidTactics(int32_t* tactics, int32_t num_tactics) noexcept final;
  /// The fields, so that plugins of a kind are timed apart; null where there is nothing to time.
  const char* getTimingCacheID() noexcept final;
  int32_t setTactic(int32_t tactic) noexcept final;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t num_inputs,
                        const nvinfer1::PluginTensorDesc* outputs, int32_t num_outputs) noexcept final;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final;

 protected:
  /// `name` must outlive the plugin.
  PluginBase(const char* name, int32_t num_inputs, int32_t num_outputs)
      : name_(name), num_inputs_(num_inputs), num_outputs_(num_outputs) {}
  PluginBase(const PluginBase& other)
      : IPluginV3(other),
        IPluginV3OneCore(other),
        IPluginV3OneBuild(other),
        IPluginV3OneRuntime(other),
        name_(other.name_),
        num_inputs_(other.num_inputs_),
        num_outputs_(other.num_outputs_),
        tactics_(other.tactics_),
        tactic_(other.tactic_) {}

  const char* name() const { return name_; }
  int32_t num_inputs() const { return num_inputs_; }
  int32_t num_outputs() const { return num_outputs_; }
  /// Throws std::invalid_argument unless these are the numbers of inputs and outputs.
  void check_counts(int32_t num_inputs, int32_t num_outputs) const;

  /// A copy that may outlive this plugin and shares no device memory with it.
  virtual PluginBase* copy() const = 0;
  /// Called before the first launch in an execution context. Throws on failure.
  virtual void prepare() {}
  /// Throws std::invalid_argument when shapes do not fit. -1 stands for an extent that is not known yet.
  virtual void check_shapes(const std::vector<nvinfer1::Dims>& inputs) const = 0;
  /// Scratch for the shapes, which are known and passed check_shapes, and for any smaller ones.
  virtual size_t workspace_bytes(const std::vector<nvinfer1::Dims>& /*inputs*/) const { return 0; }
  /// Variants that compute the same in other times, for shapes that passed check_shapes: numbers above 0, which
  /// TensorRT times when it builds. None where there is no choice.
  virtual std::vector<int32_t> tactics(const std::vector<nvinfer1::Dims>& /*inputs*/) const { return {}; }
  /// The variant to launch, 0 for the plugin's own choice.
  int32_t tactic() const { return tactic_; }
  /// The fields to make the plugin again from. Entries point into the plugin.
  virtual std::vector<nvinfer1::PluginField> serialized_fields() const = 0;

 private:
  const char* name_;
  int32_t num_inputs_;
  int32_t num_outputs_;
  std::vector<int32_t> tactics_;
  int32_t tactic_ = 0;
  std::string timing_cache_id_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection field_collection_{};
};

}  // namespace torch_trt_ext::plugins
