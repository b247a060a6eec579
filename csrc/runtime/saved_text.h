#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>

namespace torch_trt_ext {

/// How messages about what a file holds end.
inline constexpr const char* kDamaged = "; the file is damaged, save it again";

/// The number that all of `text` is, or none.
inline std::optional<int64_t> parse_int(std::string_view text) {
  int64_t number = 0;
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  return error == std::errc() && end == last ? std::make_optional(number) : std::nullopt;
}

}  // namespace torch_trt_ext
