#pragma once

#include <NvInferRuntime.h>

#include <cstdint>

#include "common/element_type.h"
#include "common/plugin_base.h"

namespace torch_trt_ext::plugins {

/// What the plugins of RetinaNet's post-processing have in common.
///
/// They read tensors of one floating point type, float32 or float16, and write three float32 tensors: scores
/// [N, n, 1, 1], boxes [N, 4 * n, 1, 1] and classes [N, n, 1, 1], and those that count their results an int32 tensor
/// [N] after these, all linear. One that takes image sizes has them as its last input, [N, 2], float32 or int32.
class RetinaNetPlugin : public PluginBase {
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
  /// `num_inputs` does not count the image sizes.
  RetinaNetPlugin(const char* name, int32_t num_inputs, bool counts_results, bool takes_image_sizes = false)
      : PluginBase(name, takes_image_sizes ? num_inputs + 1 : num_inputs, counts_results ? kCounts + 1 : kCounts),
        takes_image_sizes_(takes_image_sizes) {}

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
  virtual cudaError_t launch(const Call& call) const = 0;

 private:
  /// Place of the counts among the outputs: after scores, boxes and classes.
  static constexpr int32_t kCounts = 3;

  bool is_image_sizes(int32_t input) const { return takes_image_sizes_ && input == num_inputs() - 1; }
  /// Whether the input may be of the type when the first input is of `first_type`.
  bool may_be(nvinfer1::DataType type, int32_t input, nvinfer1::DataType first_type) const;

  bool takes_image_sizes_;
};

}  // namespace torch_trt_ext::plugins
