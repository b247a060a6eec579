#pragma once

#include <cstddef>
#include <string>

namespace torch_trt_ext {

/// XXH64 (seed 0) of `size` bytes as 16 lower-case hex digits. Finds damage, not forgery.
///
/// Source: the XXH64 algorithm as specified in the xxHash format description.
std::string checksum_hex(const void* data, size_t size);

/// XXH64 of the XXH64 of every MiB of `size` bytes (the last one shorter), each eight bytes, the lowest first. As
/// checksum_hex, but computed by as many threads as torch uses.
std::string checksum_hex_of_pieces(const void* data, size_t size);

}  // namespace torch_trt_ext
