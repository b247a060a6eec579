#pragma once

/// Marks the C functions that TensorRT looks up by name; everything else in the library is hidden.
#define TTE_EXPORT extern "C" __attribute__((visibility("default")))
