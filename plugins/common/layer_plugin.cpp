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

nvinfer1::IPluginCapability* LayerPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
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

nvinfer1::IPluginV3* LayerPlugin::clone() noexcept {
  nvinfer1::IPluginV3* cloned = nullptr;
  run_guarded(name_, [&] { cloned = copy(); });
  return cloned;
}

nvinfer1::IPluginV3* LayerPlugin::attachToContext(nvinfer1::IPluginResourceContext* /*context*/) noexcept {
  return clone();
}

bool LayerPlugin::may_be(DataType type, int32_t /*input*/, const std::vector<DataType>& types) const {
  return type == types[0];
}

int32_t LayerPlugin::getOutputDataTypes(DataType* output_types, int32_t num_outputs, const DataType* input_types,
                                        int32_t num_inputs) const noexcept {
  return run_guarded(name_, [&] {
    check_count("inputs", num_inputs, num_inputs_);
    check_count("outputs", num_outputs, 1);
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
  return run_guarded(name_, [&] {
    check_count("inputs", num_inputs, num_inputs_);
    check_count("outputs", num_outputs, 1);
    check_shapes(known_dims(inputs, num_inputs));
    outputs[0] = inputs[0];
  });
}

bool LayerPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                            int32_t num_inputs, int32_t num_outputs) noexcept {
  if (num_inputs != num_inputs_ || num_outputs != 1) {
    return false;
  }
  bool supported = false;
  run_guarded(name_, [&] {
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

int32_t LayerPlugin::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
                                     const DynamicPluginTensorDesc* /*outputs*/, int32_t /*num_outputs*/) noexcept {
  return run_guarded(name_, [&] {
    check_count("inputs", num_inputs, num_inputs_);
    check_shapes(largest_dims(inputs, num_inputs));
  });
}

size_t LayerPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t num_inputs,
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

int32_t LayerPlugin::onShapeChange(const PluginTensorDesc* inputs, int32_t num_inputs,
                                   const PluginTensorDesc* /*outputs*/, int32_t /*num_outputs*/) noexcept {
  return run_guarded(name_, [&] {
    check_count("inputs", num_inputs, num_inputs_);
    check_shapes(actual_dims(inputs, num_inputs));
  });
}

int32_t LayerPlugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* /*output_descs*/,
                             const void* const* inputs, void* const* outputs, void* workspace,
                             cudaStream_t stream) noexcept {
  return run_guarded(name_, [&] {
    const ElementType type = input_descs[0].type == DataType::kHALF ? ElementType::kFloat16 : ElementType::kFloat32;
    check_cuda(launch({type, input_descs, inputs, outputs[0], workspace, stream}), "a launch");
  });
}

const nvinfer1::PluginFieldCollection* LayerPlugin::getFieldsToSerialize() noexcept {
  const int32_t failed = run_guarded(name_, [&] {
    fields_ = serialized_fields();
    field_collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  });
  return failed != 0 ? nullptr : &field_collection_;
}

}  // namespace torch_trt_ext::plugins
