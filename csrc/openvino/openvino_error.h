#pragma once

#include <exception>
#include <string>

namespace torch_trt_ext {

/// What OpenVINO has to say, without the source locations and repetitions that its exceptions put around it.
std::string openvino_message(const std::exception& error);

}  // namespace torch_trt_ext
