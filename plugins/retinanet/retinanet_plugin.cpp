#include "retinanet/retinanet_plugin.h"

#include <stdexcept>

#include "common/logging.h"
#include "common/tensor_dims.h"

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

}  // namespace

bool RetinaNetPlugin::may_be(DataType type, int32_t input, DataType first_type) const {
  if (is_image_sizes(input)) {
    return type == DataType::kFLOAT || type == DataType::kINT32;
  }
  return (type == DataType::kFLOAT || type == DataType::kHALF) && type == first_type;
}

int32_t RetinaNetPlugin::getOutputDataTypes(DataType* output_types, int32_t num_outputs, const DataType* input_types,
                                            int32_t num_inputs) const noexcept {
  return run_guarded(name(), [&] {
    check_counts(num_inputs, num_outputs);
    for (int32_t index = 0; index < num_inputs; ++index) {
      if (!may_be(input_types[index], index, input_types[0])) {
        throw std::invalid_argument(is_image_sizes(index) ? "the image sizes must be float32 or int32"
                                                          : "inputs must all be float32 or all be float16");
      }
    }
    for (int32_t index = 0; index < num_outputs; ++index) {
      output_types[index] = index == kCounts ? DataType::kINT32 : DataType::kFLOAT;
    }
  });
}

int32_t RetinaNetPlugin::getOutputShapes(const DimsExprs* inputs, int32_t num_inputs, const DimsExprs* /*shape_inputs*/,
                                         int32_t /*num_shape_inputs*/, DimsExprs* outputs, int32_t num_outputs,
                                         nvinfer1::IExprBuilder& builder) noexcept {
  return run_guarded(name(), [&] {
    check_counts(num_inputs, num_outputs);
    check_shapes(known_dims(inputs, num_inputs));
    for (int32_t index = 0; index < num_outputs; ++index) {
      outputs[index].d[0] = inputs[0].d[0];
      if (index == kCounts) {
        outputs[index].nbDims = 1;
        continue;
      }
      const int64_t numbers_per_result = index == 1 ? 4 : 1;
      outputs[index].nbDims = 4;
      outputs[index].d[1] = builder.constant(numbers_per_result * num_results());
      outputs[index].d[2] = builder.constant(1);
      outputs[index].d[3] = builder.constant(1);
    }
  });
}

bool RetinaNetPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                                int32_t num_inputs, int32_t num_outputs) noexcept {
  if (num_inputs != this->num_inputs() || num_outputs != this->num_outputs()) {
    return false;
  }
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) {
    return false;
  }
  if (position < num_inputs) {
    return may_be(tensor.type, position, tensors[0].desc.type);
  }
  return tensor.type == (position - num_inputs == kCounts ? DataType::kINT32 : DataType::kFLOAT);
}

int32_t RetinaNetPlugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* /*output_descs*/,
                                 const void* const* inputs, void* const* outputs, void* workspace,
                                 cudaStream_t stream) noexcept {
  return run_guarded(name(), [&] {
    Call call{};
    call.type = element_type(input_descs[0]);
    call.input_descs = input_descs;
    call.inputs = inputs;
    call.scores = static_cast<float*>(outputs[0]);
    call.boxes = static_cast<float*>(outputs[1]);
    call.classes = static_cast<float*>(outputs[2]);
    call.counts = num_outputs() > kCounts ? static_cast<int32_t*>(outputs[kCounts]) : nullptr;
    call.workspace = workspace;
    call.stream = stream;
    check_cuda(launch(call), "a launch");
  });
}

}  // namespace torch_trt_ext::plugins
