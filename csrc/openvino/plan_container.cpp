#include "plan_container.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "runtime/utf8.h"

namespace torch_trt_ext {
namespace {

constexpr char kMagic[] = "TTE-OVIR";
constexpr size_t kMagicBytes = 8;
constexpr size_t kHeaderBytes = 32;
constexpr uint64_t kVersion = 1;

uint64_t read_little_endian(const uint8_t* data, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) {
    value |= static_cast<uint64_t>(data[i]) << (8 * i);
  }
  return value;
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

/// True for both forms of a TensorRT plan's first four bytes.
bool is_tensorrt_plan(std::string_view text) {
  return starts_with(text, "ptrt") || starts_with(text, "ftrt");
}

void check_magic(const uint8_t* data, size_t bytes) {
  const std::string_view text(reinterpret_cast<const char*>(data), bytes);
  TORCH_CHECK_VALUE(!is_tensorrt_plan(text), "plan is not an engine for the CPU: it must begin with '", kMagic,
                    "', but it is a TensorRT plan; give it to TRTEngineExtension");
  const size_t compared_bytes = std::min(bytes, kMagicBytes);
  TORCH_CHECK_VALUE(std::memcmp(data, kMagic, compared_bytes) == 0, "plan is not an engine for the CPU: it must begin ",
                    "with '", kMagic, "', got other bytes; make one with ",
                    "torch_trt_ext.builders.openvino_model.pack_model");
}

/// Skips one construct that may stand before an XML document's root; false when there is none.
bool skip_xml_prolog_item(std::string_view& text) {
  const size_t start = text.find_first_not_of(" \t\r\n");
  text.remove_prefix(start == std::string_view::npos ? text.size() : start);
  for (const auto& [open, close] : {std::pair<std::string_view, std::string_view>{"<?", "?>"}, {"<!--", "-->"}}) {
    if (starts_with(text, open)) {
      const size_t end = text.find(close, open.size());
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + close.size());
      return true;
    }
  }
  return false;
}

/// Whether the root element is an IR's <net>. The rest is for OpenVINO to judge.
bool looks_like_ir(std::string_view text) {
  if (starts_with(text, "\xEF\xBB\xBF")) {
    text.remove_prefix(3);
  }
  while (skip_xml_prolog_item(text)) {
  }
  return starts_with(text, "<net") && text.size() > 4 && std::strchr(" \t\r\n>", text[4]) != nullptr && text[4] != '\0';
}

}  // namespace

PlanView parse_plan(const uint8_t* data, size_t bytes) {
  TORCH_CHECK_VALUE(bytes > 0, "plan must be an engine for the CPU, got no bytes; read the whole file");
  check_magic(data, bytes);
  TORCH_CHECK_VALUE(bytes >= kHeaderBytes, "plan must have at least the ", kHeaderBytes, " bytes of its header, got ",
                    bytes, "; it was cut short, copy or build it again");

  const uint64_t version = read_little_endian(data + 8, 4);
  TORCH_CHECK_VALUE(version == kVersion, "plan must be of format version ", kVersion, ", got version ", version,
                    "; use the torch_trt_ext that wrote it, or build the engine again");
  const uint64_t reserved = read_little_endian(data + 12, 4);
  TORCH_CHECK_VALUE(reserved == 0, "plan must have zero in its reserved header field, got ", reserved,
                    "; it is damaged, copy or build it again");

  const uint64_t xml_bytes = read_little_endian(data + 16, 8);
  const uint64_t weights_bytes = read_little_endian(data + 24, 8);
  // No sum of announced sizes is formed before each was seen to fit, so none can overflow.
  const uint64_t after_header = bytes - kHeaderBytes;
  TORCH_CHECK_VALUE(xml_bytes <= after_header, "plan must have the ", xml_bytes,
                    " bytes of XML that its header announces, ", xml_bytes - after_header,
                    " bytes are missing; it was cut short, copy or build it again");
  const uint64_t xml_end = kHeaderBytes + xml_bytes;
  const uint64_t padding_bytes = (kPlanAlignment - xml_end % kPlanAlignment) % kPlanAlignment;
  const uint64_t after_xml = bytes - xml_end;
  TORCH_CHECK_VALUE(padding_bytes <= after_xml && weights_bytes <= after_xml - padding_bytes, "plan must have the ",
                    weights_bytes, " bytes of weights that its header announces, ",
                    padding_bytes > after_xml ? weights_bytes : weights_bytes - (after_xml - padding_bytes),
                    " bytes are missing; it was cut short, copy or build it again");
  const uint64_t trailing_bytes = after_xml - padding_bytes - weights_bytes;
  TORCH_CHECK_VALUE(trailing_bytes == 0, "plan must end with its weights, got ", trailing_bytes,
                    " trailing bytes; pass exactly the bytes that were written");
  const uint8_t* const weights = data + xml_end + padding_bytes;
  TORCH_CHECK_VALUE(std::all_of(data + xml_end, weights, [](uint8_t byte) { return byte == 0; }),
                    "plan must have zeros between its XML and its weights, got other bytes; it is damaged, copy or "
                    "build it again");

  const std::string_view xml(reinterpret_cast<const char*>(data) + kHeaderBytes, static_cast<size_t>(xml_bytes));
  TORCH_CHECK_VALUE(looks_like_ir(xml), "plan must hold an OpenVINO IR, whose root element is <net>, got other text; ",
                    "make one with torch_trt_ext.builders.openvino_model.pack_model");
  // OpenVINO repeats names in its messages.
  const size_t no_utf8 = find_no_utf8(xml);
  TORCH_CHECK_VALUE(no_utf8 == std::string_view::npos, "plan must hold its XML in UTF-8, got other bytes at ", no_utf8,
                    " of ", xml_bytes, "; it is damaged, copy or build it again");
  return PlanView{xml.data(), xml.size(), weights, static_cast<size_t>(weights_bytes)};
}

}  // namespace torch_trt_ext
