#pragma once

#include <string>

#include "runtime/tensorrt/library.h"

namespace torch_trt_ext::tensorrt {

/// Registers the plugins of this package (libtorch_trt_ext_plugins.so beside libtorch_trt_ext.so) and TensorRT's own
/// (libnvinfer_plugin), once. A library that is not there is passed over: only a plan that needs it fails. Returns why
/// the package's own, if it is there, could not be opened, or an empty string.
const std::string& register_standard_plugins(const Library& library);

}  // namespace torch_trt_ext::tensorrt
