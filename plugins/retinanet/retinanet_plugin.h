#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/element_type.h"

namespace torch_trt_ext::plugins {

/// What the plugins of RetinaNet's post-processing have in common.
///
/// They read tensors of one floating point type, float32 or float16, and write three float32 tensors: scores
/// [N, n, 1, 1], boxes [N, 4 * n, 1, 1] and classes [N, n, 1, 1], and those that count their results an int32 tensor
/// [N] after these, all linear. One that takes image sizes has them as its last input, [N, 2], float32 or int32.
class RetinaNetPlugin : public nvinfer1::IPluginV3,
                        public nvinfer1::IPluginV3OneCore,
                        public nvinfer1::IPluginV3OneBuild,
                        public nvinfer1::IPluginV3OneRuntime {
 public:
  static constexpr const char* kVersion = "1";

  RetinaNetPlugin& operator=(const RetinaNetPlugin&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;

  const char* getPluginName() const noexcept final { return name_; }
  const char* getPluginVersion() const noexcept final { return kVersion; }
  const char* getPluginNamespace() const noexcept final { return ""; }

  int32_t getNbOutputs() const noexcept final { return num_outputs_; }
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
  /// `num_inputs` does not count the image sizes.
  RetinaNetPlugin(const char* name, int32_t num_inputs, bool counts_results, bool takes_image_sizes = false)
      : name_(name),
        num_inputs_(takes_image_sizes ? num_inputs + 1 : num_inputs),
        num_outputs_(counts_results ? kCounts + 1 : kCounts),
        takes_image_sizes_(takes_image_sizes) {}
  RetinaNetPlugin(const RetinaNetPlugin& other)
      : IPluginV3(other),
        IPluginV3OneCore(other),
        IPluginV3OneBuild(other),
        IPluginV3OneRuntime(other),
        name_(other.name_),
        num_inputs_(other.num_inputs_),
        num_outputs_(other.num_outputs_),
        takes_image_sizes_(other.takes_image_sizes_) {}

  /// Device pointers of one call.
  struct Call {
    ElementType type;
    const nvinfer1::PluginTensorDesc* input_descs;
    const void* const* inputs;
    float* scores;
    float* boxes;
    float* classes;
    /// Null for a plugin that does not count its results.
    int32_t* counts;
    void* workspace;
    cudaStream_t stream;
  };

  /// Entries an image in the outputs, n.
  virtual int64_t num_results() const = 0;
  /// Throws std::invalid_argument when shapes do not fit. -1 stands for an extent that is not known yet.
  virtual void check_shapes(const std::vector<nvinfer1::Dims>& inputs) const = 0;
  /// `inputs` are known, and passed check_shapes.
  virtual size_t workspace_bytes(const std::vector<nvinfer1::Dims>& inputs) const = 0;
  /// Called before the first launch in an execution context. Throws on failure.
  virtual void prepare() {}
  virtual cudaError_t launch(const Call& call) const = 0;
  /// Entries point into the plugin.
  virtual std::vector<nvinfer1::PluginField> serialized_fields() const = 0;

 private:
  /// Place of the counts among the outputs: after scores, boxes and classes.
  static constexpr int32_t kCounts = 3;

  bool is_image_sizes(int32_t input) const { return takes_image_sizes_ && input == num_inputs_ - 1; }
  /// Whether the input may be of the type when the first input is of `first_type`.
  bool may_be(nvinfer1::DataType type, int32_t input, nvinfer1::DataType first_type) const;

  const char* name_;
  int32_t num_inputs_;
  int32_t num_outputs_;
  bool takes_image_sizes_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection field_collection_;
};

}  // namespace torch_trt_ext::plugins
