#pragma once

#include <c10/core/ScalarType.h>

#include <openvino/core/type/element_type.hpp>

#include <optional>

namespace torch_trt_ext {

/// The torch dtype with the same bytes, or nothing when an engine cannot have inputs and outputs of this type.
std::optional<at::ScalarType> to_scalar_type(const ov::element::Type& type);

/// The inverse. `type` came from to_scalar_type.
ov::element::Type to_element_type(at::ScalarType type);

}  // namespace torch_trt_ext
