#include "common/layer_plugin.h"

#include <stdexcept>
#include <string>

#include "common/logging.h"
#include "common/tensor_dims.h"

namespace torch_trt_ext::plugins {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

bool LayerPlugin::may_be(DataType type, int32_t /*input*/, const std::vector<DataType>& types) const {
  return type == types[0];
}

int32_t LayerPlugin::getOutputDataTypes(DataType* output_types, int32_t num_outputs, const DataType* input_types,
                                        int32_t num_inputs) const noexcept {
  return run_guarded(name(), [&] {
    check_counts(num_inputs, num_outputs);
    if (input_types[0] != DataType::kFLOAT && input_types[0] != DataType::kHALF) {
      throw std::invalid_argument("input 0 must be float32 or float16");
    }
    for (int32_t input = 1; input < num_inputs; ++input) {
      if (!may_be(input_types[input], input, {input_types, input_types + input})) {
        throw std::invalid_argument("input " + std::to_string(input) +
                                    " has a type that does not go with the inputs before it");
      }
    }
    output_types[0] = input_types[0];
  });
}

int32_t LayerPlugin::getOutputShapes(const DimsExprs* inputs, int32_t num_inputs, const DimsExprs* /*shape_inputs*/,
                                     int32_t /*num_shape_inputs*/, DimsExprs* outputs, int32_t num_outputs,
                                     nvinfer1::IExprBuilder& /*builder*/) noexcept {
  return run_guarded(name(), [&] {
    check_counts(num_inputs, num_outputs);
    check_shapes(known_dims(inputs, num_inputs));
    outputs[0] = inputs[0];
  });
}

bool LayerPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                            int32_t num_inputs, int32_t num_outputs) noexcept {
  if (num_inputs != this->num_inputs() || num_outputs != this->num_outputs()) {
    return false;
  }
  bool supported = false;
  run_guarded(name(), [&] {
    const PluginTensorDesc& tensor = tensors[position].desc;
    std::vector<DataType> types;
    for (int32_t before = 0; before < position; ++before) {
      types.push_back(tensors[before].desc.type);
    }
    if (position == 0) {
      supported = tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF;
    } else if (position < num_inputs) {
      supported = may_be(tensor.type, position, types);
    } else {
      supported = tensor.type == types[0];
    }
    supported = supported && tensor.format == nvinfer1::TensorFormat::kLINEAR;
  });
  return supported;
}

int32_t LayerPlugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* /*output_descs*/,
                             const void* const* inputs, void* const* outputs, void* workspace,
                             cudaStream_t stream) noexcept {
  return run_guarded(name(), [&] {
    check_cuda(launch({element_type(input_descs[0]), input_descs, inputs, outputs[0], workspace, stream}), "a launch");
  });
}

}  // namespace torch_trt_ext::plugins
