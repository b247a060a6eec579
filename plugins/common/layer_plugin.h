#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "common/element_type.h"
#include "common/plugin_base.h"

namespace torch_trt_ext::plugins {

/// A layer whose one output has the type and the shape of its first input, float32 or float16; all tensors are linear.
///
/// A plugin derives from it, says how it is copied, what it launches and what its fields are, and overrides the rest
/// where it has more than one input or needs a workspace.
class LayerPlugin : public PluginBase {
 public:
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t num_outputs,
                             const nvinfer1::DataType* input_types, int32_t num_inputs) const noexcept final;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t num_inputs,
                          const nvinfer1::DimsExprs* shape_inputs, int32_t num_shape_inputs,
                          nvinfer1::DimsExprs* outputs, int32_t num_outputs,
                          nvinfer1::IExprBuilder& builder) noexcept final;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t num_inputs,
                                 int32_t num_outputs) noexcept final;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* output_descs,
                  const void* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept final;

 protected:
  /// `name` must outlive the plugin.
  LayerPlugin(const char* name, int32_t num_inputs) : PluginBase(name, num_inputs, 1) {}

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

  /// Whether input number `input`, not the first, may be of `type` when those before it have `types`.
  virtual bool may_be(nvinfer1::DataType type, int32_t input, const std::vector<nvinfer1::DataType>& types) const;
  /// Puts the work on the call's stream. Must not block the host or allocate: it may be captured in a CUDA graph.
  virtual cudaError_t launch(const Call& call) const = 0;
};

}  // namespace torch_trt_ext::plugins
