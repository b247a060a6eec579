#include "layers/leaky_relu_plugin.h"

#include "layers/leaky_relu_kernels.h"

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::PluginFieldType;

constexpr const char* kNegSlope = "neg_slope";

}  // namespace

const std::vector<FieldSpec>& LeakyReluPlugin::field_specs() {
  static const std::vector<FieldSpec> specs = {{kNegSlope, PluginFieldType::kFLOAT32, 1}};
  return specs;
}

LeakyReluPlugin::LeakyReluPlugin(const PluginFields& fields)
    : LayerPlugin(kName, 1), neg_slope_(fields.read_float(kNegSlope)) {
  require_finite(kNegSlope, neg_slope_);
}

cudaError_t LeakyReluPlugin::launch(const Call& call) const {
  int64_t count = 1;
  const nvinfer1::Dims& dims = call.input_descs[0].dims;
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
    count *= dims.d[axis];
  }
  return launch_leaky_relu(call.inputs[0], call.output, count, neg_slope_, call.type, call.stream);
}

std::vector<nvinfer1::PluginField> LeakyReluPlugin::serialized_fields() const {
  return {{kNegSlope, &neg_slope_, PluginFieldType::kFLOAT32, 1}};
}

}  // namespace torch_trt_ext::plugins
