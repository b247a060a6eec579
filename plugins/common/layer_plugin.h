#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/element_type.h"

namespace torch_trt_ext::plugins {

/// A layer whose one output has the type and the shape of its first input, float32 or float16; all tensors are linear.
///
/// A plugin derives from it, says how it is copied, what it launches and what its fields are, and overrides the rest
/// where it has more than one input or needs a workspace. Whatever throws becomes TensorRT's error.
class LayerPlugin : public nvinfer1::IPluginV3,
                    public nvinfer1::IPluginV3OneCore,
                    public nvinfer1::IPluginV3OneBuild,
                    public nvinfer1::IPluginV3OneRuntime {
 public:
  static constexpr const char* kVersion = "1";

  LayerPlugin& operator=(const LayerPlugin&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
  nvinfer1::IPluginV3* clone() noexcept final;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;

  const char* getPluginName() const noexcept final { return name_; }
  const char* getPluginVersion() const noexcept final { return kVersion; }
  const char* getPluginNamespace() const noexcept final { return ""; }

  int32_t getNbOutputs() const noexcept final { return 1; }
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t num_outputs,
                             const nvinfer1::DataType* input_types, int32_t num_inputs) const noexcept final;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs,
                          const nvinfer1::DimsExprs* shape_inputs, int32_t num_shape_inputs,
                          nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept final;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t num_inputs,
                                 int32_t num_outputs) noexcept final;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t num_outputs) noexcept final;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t num_outputs) const noexcept final;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t num_inputs,
                        const nvinfer1::PluginTensorDesc* outputs, int32_t num_outputs) noexcept final;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
                  const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept final;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final;

 protected:
  /// `name` must outlive the plugin.
  LayerPlugin(const char* name, int32_t num_inputs) : name_(name), num_inputs_(num_inputs) {}
  LayerPlugin(const LayerPlugin& other)
      : IPluginV3(other),
        IPluginV3OneCore(other),
        IPluginV3OneBuild(other),
        IPluginV3OneRuntime(other),
        name_(other.name_),
        num_inputs_(other.num_inputs_) {}

  /// Device pointers of one call, dense.
  struct Call {
    /// Of the first input and of the output.
    ElementType type;
    const nvinfer1::PluginTensorDesc* input_descs;
    const void* const* inputs;
    void* output;
    /// Of workspace_bytes, 256-byte aligned, contents irrelevant before and after.
    void* workspace;
    cudaStream_t stream;
  };

  /// A copy that may outlive this plugin.
  virtual LayerPlugin* copy() const = 0;
  /// Whether input number `input`, not the first, may be of `type` when those before it have `types`.
  virtual bool may_be(nvinfer1::DataType type, int32_t input, const std::vector<nvinfer1::DataType>& types) const;
  /// Throws std::invalid_argument when shapes do not fit. -1 stands for an extent that is not known yet.
  virtual void check_shapes(const std::vector<nvinfer1::Dims>& inputs) const = 0;
  /// Scratch for the shapes, which are known and passed check_shapes, and for any smaller ones.
  virtual size_t workspace_bytes(const std::vector<nvinfer1::Dims>& /*inputs*/) const { return 0; }
  /// Puts the work on the call's stream. Must not block the host or allocate: it may be captured in a CUDA graph.
  virtual cudaError_t launch(const Call& call) const = 0;
  /// The fields to make the plugin again from. Entries point into the plugin.
  virtual std::vector<nvinfer1::PluginField> serialized_fields() const = 0;

 private:
  const char* name_;
  int32_t num_inputs_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection field_collection_{};
};

}  // namespace torch_trt_ext::plugins
