#pragma once

namespace torch_trt_ext::plugins {

/// Address of `symbol` in this process's TensorRT, or null when TensorRT cannot be found.
///
/// A TensorRT that is already loaded is taken first (full, lean or dispatch runtime, of the major version whose headers
/// this library was built with), then the one that the dynamic linker finds. The choice is made once: at the first call
/// that finds one. Thread safe.
void* find_tensorrt_symbol(const char* symbol) noexcept;

}  // namespace torch_trt_ext::plugins
