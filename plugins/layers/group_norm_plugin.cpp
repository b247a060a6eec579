#include "layers/group_norm_plugin.h"

#include <stdexcept>
#include <string>

#include "common/logging.h"
#include "common/tensor_dims.h"

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginFieldType;

constexpr const char* kEps = "eps";
constexpr const char* kNumGroups = "num_groups";
constexpr const char* kVariant = "variant";
/// torch.nn.GroupNorm's.
constexpr float kDefaultEps = 1e-5F;

/// -1 where an extent is not known yet; also where the number is too large for anybody.
int64_t spatial_extent(const Dims& input) {
  int64_t elements = 1;
  for (int32_t axis = 2; axis < input.nbDims; ++axis) {
    if (input.d[axis] < 0) {
      return -1;
    }
    if (input.d[axis] > 0 && elements > INT64_MAX / input.d[axis]) {
      return INT64_MAX;
    }
    elements *= input.d[axis];
  }
  return elements;
}

}  // namespace

const std::vector<FieldSpec>& GroupNormPlugin::field_specs() {
  static const std::vector<FieldSpec> specs = {
      {kEps, PluginFieldType::kFLOAT32, 1},
      {kNumGroups, PluginFieldType::kINT32, 1},
      {kVariant, PluginFieldType::kINT32, 1},
  };
  return specs;
}

GroupNormPlugin::GroupNormPlugin(const PluginFields& fields)
    : LayerPlugin(kName, 3),
      eps_(fields.read_float(kEps, kDefaultEps)),
      num_groups_(fields.read_int32(kNumGroups)),
      variant_(fields.read_int32(kVariant, 0)) {
  require_finite(kEps, eps_);
  if (eps_ < 0.0F) {
    throw std::invalid_argument("field 'eps' must be at least 0, got " + std::to_string(eps_));
  }
  require_at_least(kNumGroups, num_groups_, 1);
  if (variant_ < 0 || variant_ > static_cast<int32_t>(GroupNormVariant::kCluster)) {
    throw std::invalid_argument("field 'variant' must be from 0 to 3, got " + std::to_string(variant_));
  }
}

bool GroupNormPlugin::may_be(DataType type, int32_t input, const std::vector<DataType>& types) const {
  // Scale, which may have more digits than the input; bias as scale.
  return input == 1 ? type == types[0] || type == DataType::kFLOAT : type == types[1];
}

void GroupNormPlugin::check_shapes(const std::vector<Dims>& inputs) const {
  const Dims& input = inputs[0];
  if (input.nbDims < 2) {
    throw std::invalid_argument("input 0 must be [N, C, ...], got " + describe(input));
  }
  const int64_t channels = input.d[1];
  if (channels >= 0 && channels % num_groups_ != 0) {
    throw std::invalid_argument("field 'num_groups' must divide the channels of input 0, " + describe(input) +
                                ", got " + std::to_string(num_groups_));
  }
  for (size_t index = 1; index < inputs.size(); ++index) {
    if (inputs[index].nbDims != 1 || differ(inputs[index].d[0], channels)) {
      throw std::invalid_argument("input " + std::to_string(index) + (index == 1 ? " (scale)" : " (bias)") +
                                  " must have one number a channel of input 0, " + describe(input) + ", got " +
                                  describe(inputs[index]));
    }
  }
  const int64_t spatial = spatial_extent(input);
  if (channels > 0 && spatial > kMaxElementsPerGroup / (channels / num_groups_)) {
    throw std::invalid_argument("a group must have at most " + std::to_string(kMaxElementsPerGroup) +
                                " elements, got " + std::to_string(num_groups_) + " groups of " + describe(input));
  }
}

GroupNormShape GroupNormPlugin::shape_of(const Dims& input) const {
  return {input.d[0], input.d[1], spatial_extent(input), num_groups_};
}

std::vector<int32_t> GroupNormPlugin::tactics(const std::vector<Dims>& inputs) const {
  std::vector<int32_t> tactics;
  if (variant_ == 0) {
    for (const GroupNormVariant variant : group_norm_variants(shape_of(inputs[0]))) {
      tactics.push_back(static_cast<int32_t>(variant));
    }
  }
  return tactics;
}

void GroupNormPlugin::prepare() {
  check_cuda(prepare_group_norm(), "looking at the device");
}

size_t GroupNormPlugin::workspace_bytes(const std::vector<Dims>& inputs) const {
  return group_norm_workspace_bytes(shape_of(inputs[0]));
}

cudaError_t GroupNormPlugin::launch(const Call& call) const {
  const ChannelAffine affine = {call.inputs[1], call.inputs[2], element_type(call.input_descs[1])};
  const auto variant = static_cast<GroupNormVariant>(variant_ != 0 ? variant_ : tactic());
  return launch_group_norm(shape_of(call.input_descs[0].dims), eps_, affine, variant, call.inputs[0], call.output,
                           call.type, call.workspace, call.stream);
}

std::vector<nvinfer1::PluginField> GroupNormPlugin::serialized_fields() const {
  return {
      {kEps, &eps_, PluginFieldType::kFLOAT32, 1},
      {kNumGroups, &num_groups_, PluginFieldType::kINT32, 1},
      {kVariant, &variant_, PluginFieldType::kINT32, 1},
  };
}

}  // namespace torch_trt_ext::plugins
