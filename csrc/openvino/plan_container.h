#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace torch_trt_ext {

/// The two halves of an OpenVINO IR inside a plan. Borrows the plan's memory.
struct PlanView {
  const char* xml;
  size_t xml_bytes;
  /// Starts at a multiple of kPlanAlignment bytes from the plan's beginning.
  const uint8_t* weights;
  size_t weights_bytes;
};

/// The weights start at a multiple of this many bytes, so that OpenVINO can use them where they lie.
constexpr size_t kPlanAlignment = 64;

/// Finds the parts of a serialized CPU engine.
///
/// Layout, little-endian: 8 bytes "TTE-OVIR", u32 version 1, u32 zero, u64 xml_bytes, u64 weights_bytes, the xml, zeros
/// up to a multiple of kPlanAlignment, the weights. Nothing may follow. torch_trt_ext/builders/openvino_model.py writes
/// it.
///
/// Throws c10::ValueError when the bytes are anything else. Reads no byte outside [data, data + bytes).
PlanView parse_plan(const uint8_t* data, size_t bytes);

}  // namespace torch_trt_ext
