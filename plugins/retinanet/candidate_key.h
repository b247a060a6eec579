#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace torch_trt_ext::plugins {

/// A 64-bit number that orders candidates: the higher score first, then the lower index.
///
/// Its upper half is the score's bits, which order like the score because selected scores are positive and finite; its
/// lower half is the inverted index. So keys are unique within an image and any order of work gives the same result.
/// 0 stands for "not selected" and is below every selected key.
using CandidateKey = uint64_t;

/// The key of candidate `index`, or 0 unless threshold < score < infinity. `threshold` must not be negative.
TTE_HOST_DEVICE CandidateKey candidate_key(float score, uint32_t index, float threshold) {
  // A NaN fails the first comparison, an infinity the second.
  if (!(score > threshold) || !(score <= 3.402823466e+38F)) {
    return 0;
  }
  uint32_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return (static_cast<uint64_t>(bits) << 32) | static_cast<uint32_t>(~index);
}

TTE_HOST_DEVICE float key_score(CandidateKey key) {
  const uint32_t bits = static_cast<uint32_t>(key >> 32);
  float score;
  memcpy(&score, &bits, sizeof(score));
  return score;
}

TTE_HOST_DEVICE uint32_t key_index(CandidateKey key) {
  return ~static_cast<uint32_t>(key);
}

}  // namespace torch_trt_ext::plugins
