#pragma once

#include <cstddef>
#include <string_view>

namespace torch_trt_ext {

/// Where `text` stops being UTF-8; npos when all of it is. A zero byte is none: names and messages would end there.
///
/// Bytes of a damaged file that are no text must not get into messages, since Python could not show these.
inline size_t find_no_utf8(std::string_view text) {
  const auto byte = [text](size_t index) { return static_cast<unsigned char>(index < text.size() ? text[index] : 0); };
  for (size_t position = 0; position < text.size();) {
    const unsigned char first = byte(position);
    const unsigned char second = byte(position + 1);
    const size_t length = first == 0      ? 0
                          : first < 0x80  ? 1
                          : first < 0xC2  ? 0
                          : first < 0xE0  ? 2
                          : first < 0xF0  ? 3
                          : first <= 0xF4 ? 4
                                          : 0;
    const bool overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
    const bool no_character = (first == 0xED && second > 0x9F) || (first == 0xF4 && second > 0x8F);
    if (length == 0 || overlong || no_character) {
      return position;
    }
    for (size_t index = 1; index < length; ++index) {
      if ((byte(position + index) & 0xC0) != 0x80) {
        return position;
      }
    }
    position += length;
  }
  return std::string_view::npos;
}

}  // namespace torch_trt_ext
