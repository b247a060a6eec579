#include "element_types.h"

#include <c10/util/Exception.h>

#include <utility>

namespace torch_trt_ext {
namespace {

using Pair = std::pair<at::ScalarType, ov::element::Type_t>;

constexpr Pair kPairs[] = {
    {at::kFloat, ov::element::Type_t::f32},     {at::kHalf, ov::element::Type_t::f16},
    {at::kBFloat16, ov::element::Type_t::bf16}, {at::kDouble, ov::element::Type_t::f64},
    {at::kChar, ov::element::Type_t::i8},       {at::kByte, ov::element::Type_t::u8},
    {at::kShort, ov::element::Type_t::i16},     {at::kInt, ov::element::Type_t::i32},
    {at::kLong, ov::element::Type_t::i64},      {at::kBool, ov::element::Type_t::boolean},
};

}  // namespace

std::optional<at::ScalarType> to_scalar_type(const ov::element::Type& type) {
  for (const auto& [scalar, element] : kPairs) {
    if (type == element) {
      return scalar;
    }
  }
  return std::nullopt;
}

ov::element::Type to_element_type(at::ScalarType type) {
  for (const auto& [scalar, element] : kPairs) {
    if (type == scalar) {
      return element;
    }
  }
  TORCH_INTERNAL_ASSERT(false, "no OpenVINO type for ", type);
}

}  // namespace torch_trt_ext
