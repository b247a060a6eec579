#include "runtime/tensorrt/plan_header.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <sstream>

namespace torch_trt_ext::tensorrt {
namespace {

// The layout is not documented; these offsets were read off plans of TensorRT 10.6: a tag, its format's version, the
// plan's size (uint64), TensorRT's version (four bytes).
constexpr int64_t kHeaderBytes = 28;
constexpr char kTag[] = "ftrt";
constexpr char kOpenVinoTag[] = "TTE-OVIR";
constexpr int64_t kSizeOffset = 16;
constexpr int64_t kVersionOffset = 24;

std::string printable(const uint8_t* bytes, int64_t count) {
  std::ostringstream text;
  for (int64_t index = 0; index < count; ++index) {
    if (std::isprint(bytes[index]) != 0) {
      text << static_cast<char>(bytes[index]);
    } else {
      text << "\\x" << "0123456789abcdef"[bytes[index] >> 4] << "0123456789abcdef"[bytes[index] & 15];
    }
  }
  return text.str();
}

}  // namespace

void check_plan_header(const at::Tensor& plan) {
  const uint8_t* const bytes = plan.const_data_ptr<uint8_t>();
  const int64_t size = plan.numel();
  TORCH_CHECK_VALUE(size < 8 || std::memcmp(bytes, kOpenVinoTag, 8) != 0,
                    "a TensorRT engine must be a plan, got an OpenVINO engine; use OpenVINOEngineExtension");
  TORCH_CHECK_VALUE(size >= 4 && std::memcmp(bytes, kTag, 4) == 0,
                    "a TensorRT engine must be a plan, which begins with '", kTag, "', got ", size, " bytes",
                    size == 0 ? "" : " that begin with '", printable(bytes, std::min<int64_t>(size, 8)),
                    size == 0 ? "" : "'", "; pass the bytes that ICudaEngine.serialize() or trtexec --saveEngine gave");
  TORCH_CHECK_VALUE(size >= kHeaderBytes, "a TensorRT plan must have a header of ", kHeaderBytes, " bytes, got ", size,
                    " bytes in all; the plan was cut short, read or build it again");
  uint64_t announced = 0;
  std::memcpy(&announced, bytes + kSizeOffset, sizeof(announced));
  TORCH_CHECK_VALUE(announced >= kHeaderBytes && announced <= static_cast<uint64_t>(size),
                    "a TensorRT plan must be whole: its header announces ", announced, " bytes, got ", size,
                    "; the plan was cut short or damaged, read or build it again");
}

std::string plan_version(const at::Tensor& plan) {
  const uint8_t* const version = plan.const_data_ptr<uint8_t>() + kVersionOffset;
  std::ostringstream text;
  text << int{version[0]} << "." << int{version[1]} << "." << int{version[2]} << "." << int{version[3]};
  return text.str();
}

}  // namespace torch_trt_ext::tensorrt
