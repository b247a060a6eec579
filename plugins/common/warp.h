#pragma once

#include <cstdint>

namespace torch_trt_ext::plugins {

constexpr uint32_t kWarpThreads = 32;
constexpr uint32_t kAllLanes = 0xFFFFFFFFU;

}  // namespace torch_trt_ext::plugins
