#pragma once

#include <torch/script.h>

#include <string>

/// Reads a binary PPM (P6) with 8 bits a channel: Tensor[3, H, W], uint8, RGB, CPU.
///
/// Throws std::runtime_error when the file cannot be read or is anything else.
torch::Tensor read_ppm(const std::string& path);
