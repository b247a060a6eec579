#include "common/tensor_dims.h"

#include <stdexcept>

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

template <class Tensor, class GetDims>
std::vector<Dims> collect_dims(const Tensor* tensors, int32_t count, GetDims get_dims) {
  std::vector<Dims> all;
  for (int32_t index = 0; index < count; ++index) {
    all.push_back(get_dims(tensors[index]));
  }
  return all;
}

/// `dims` of the tensor's profile, or the tensor's own where there is none.
Dims of_profile(const DynamicPluginTensorDesc& tensor, const Dims& dims) {
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
    if (dims.d[axis] < 0) {
      return tensor.desc.dims;
    }
  }
  return dims.nbDims == tensor.desc.dims.nbDims ? dims : tensor.desc.dims;
}

}  // namespace

std::vector<Dims> known_dims(const DimsExprs* tensors, int32_t count) {
  return collect_dims(tensors, count, [](const DimsExprs& tensor) {
    Dims dims{};
    dims.nbDims = tensor.nbDims;
    for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
      dims.d[axis] = tensor.d[axis]->isConstant() ? tensor.d[axis]->getConstantValue() : -1;
    }
    return dims;
  });
}

std::vector<Dims> largest_dims(const DynamicPluginTensorDesc* tensors, int32_t count) {
  return collect_dims(tensors, count,
                      [](const DynamicPluginTensorDesc& tensor) { return of_profile(tensor, tensor.max); });
}

std::vector<Dims> tuned_dims(const DynamicPluginTensorDesc* tensors, int32_t count) {
  return collect_dims(tensors, count,
                      [](const DynamicPluginTensorDesc& tensor) { return of_profile(tensor, tensor.opt); });
}

std::vector<Dims> actual_dims(const PluginTensorDesc* tensors, int32_t count) {
  return collect_dims(tensors, count, [](const PluginTensorDesc& tensor) { return tensor.dims; });
}

void check_count(const char* what, int32_t actual, int32_t required) {
  if (actual != required) {
    throw std::invalid_argument(std::string("number of ") + what + " must be " + std::to_string(required) + ", got " +
                                std::to_string(actual));
  }
}

std::string describe(const Dims& dims) {
  std::string text = "[";
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
    text += (axis == 0 ? "" : ", ") + std::to_string(dims.d[axis]);
  }
  return text + "]";
}

}  // namespace torch_trt_ext::plugins
