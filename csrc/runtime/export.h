#pragma once

/// Marks what other libraries may use of libtorch_trt_ext.so; everything else is hidden.
#define TORCH_TRT_EXT_API __attribute__((visibility("default")))
