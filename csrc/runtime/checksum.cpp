#include "runtime/checksum.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

namespace torch_trt_ext {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;
/// How far ahead to ask for memory: the processor does not look past the end of a page of 4 KiB by itself, and waits
/// there.
constexpr size_t kPrefetchBytes = 4096;
/// More do not read memory any faster.
constexpr size_t kMaxThreads = 8;

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87ULL;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4FULL;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9ULL;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63ULL;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5ULL;

uint64_t rotate_left(uint64_t value, int bits) {
  return (value << bits) | (value >> (64 - bits));
}

template <typename Word>
Word read_word(const unsigned char* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

uint64_t mix_lane(uint64_t lane, uint64_t word) {
  return rotate_left(lane + word * kPrime2, 31) * kPrime1;
}

uint64_t merge_lane(uint64_t hash, uint64_t lane) {
  return (hash ^ mix_lane(0, lane)) * kPrime1 + kPrime4;
}

uint64_t xxh64(const unsigned char* bytes, size_t size) {
  const unsigned char* const end = bytes + size;
  uint64_t hash = kPrime5;
  if (size >= 32) {
    uint64_t lanes[4] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
    for (; end - bytes >= 32; bytes += 32) {
      __builtin_prefetch(bytes + kPrefetchBytes);
      for (int lane = 0; lane < 4; ++lane) {
        lanes[lane] = mix_lane(lanes[lane], read_word<uint64_t>(bytes + 8 * lane));
      }
    }
    hash = rotate_left(lanes[0], 1) + rotate_left(lanes[1], 7) + rotate_left(lanes[2], 12) + rotate_left(lanes[3], 18);
    for (const uint64_t lane : lanes) {
      hash = merge_lane(hash, lane);
    }
  }
  hash += size;
  for (; end - bytes >= 8; bytes += 8) {
    hash = rotate_left(hash ^ mix_lane(0, read_word<uint64_t>(bytes)), 27) * kPrime1 + kPrime4;
  }
  if (end - bytes >= 4) {
    hash = rotate_left(hash ^ (read_word<uint32_t>(bytes) * kPrime1), 23) * kPrime2 + kPrime3;
    bytes += 4;
  }
  for (; bytes < end; ++bytes) {
    hash = rotate_left(hash ^ (*bytes * kPrime5), 11) * kPrime1;
  }
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

std::string to_hex(uint64_t hash) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

}  // namespace

std::string checksum_hex(const void* data, size_t size) {
  return to_hex(xxh64(static_cast<const unsigned char*>(data), size));
}

std::string checksum_hex_of_pieces(const void* data, size_t size) {
  const auto* const bytes = static_cast<const unsigned char*>(data);
  const size_t pieces = (size + kPieceBytes - 1) / kPieceBytes;
  std::vector<unsigned char> hashes(pieces * sizeof(uint64_t));
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t piece = next++; piece < pieces; piece = next++) {
      const size_t first = piece * kPieceBytes;
      const uint64_t hash = xxh64(bytes + first, std::min(kPieceBytes, size - first));
      for (size_t byte = 0; byte < sizeof(uint64_t); ++byte) {
        hashes[piece * sizeof(uint64_t) + byte] = static_cast<unsigned char>(hash >> (8 * byte));
      }
    }
  };
  std::vector<std::thread> helpers;
  const size_t threads = std::min({pieces, kMaxThreads, static_cast<size_t>(std::max(1, at::get_num_threads()))});
  try {
    while (helpers.size() + 1 < threads) {
      helpers.emplace_back(work);
    }
  } catch (const std::system_error&) {
    // This thread does what those that could not start leave.
  }
  work();
  for (std::thread& helper : helpers) {
    helper.join();
  }
  return to_hex(xxh64(hashes.data(), hashes.size()));
}

}  // namespace torch_trt_ext
