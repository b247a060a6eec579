#pragma once

#include <cstdint>
#include <cstring>

namespace torch_trt_ext::ops {

/// A key that is greater for a greater score and, among equal scores, for a smaller index. `score` is not NaN.
inline uint64_t score_key(float score, uint32_t index) {
  // Adding zero makes the two zeros equal.
  score += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | ~index;
}

inline uint32_t key_index(uint64_t key) {
  return ~static_cast<uint32_t>(key);
}

inline float key_score(uint64_t key) {
  uint32_t bits = static_cast<uint32_t>(key >> 32);
  bits = (bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits;
  float score;
  std::memcpy(&score, &bits, sizeof(score));
  return score;
}

}  // namespace torch_trt_ext::ops
