#pragma once

/// CUDA's device functions, as far as the plugins have them. Part of runtime.h.

#include "runtime.h"

// Barriers and warp operations.
inline void __syncthreads(cuda_emulation::Site site = {}) {
  cuda_emulation::sync_block(false, site);
}
inline int __syncthreads_or(int predicate, cuda_emulation::Site site = {}) {
  return cuda_emulation::sync_block(predicate != 0, site) != 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, cuda_emulation::Site site = {}) {
  return cuda_emulation::sync_block(predicate == 0, site) == 0 ? 1 : 0;
}
inline int __syncthreads_count(int predicate, cuda_emulation::Site site = {}) {
  return static_cast<int>(cuda_emulation::sync_block(predicate != 0, site));
}
inline void __syncwarp(uint32_t mask = 0xFFFFFFFFU, cuda_emulation::Site site = {}) {
  cuda_emulation::exchange(mask, 0, 0, [](cuda_emulation::WarpExchange&) {}, site);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, cuda_emulation::Site site = {}) {
  const cuda_emulation::WarpOperation collect = [](cuda_emulation::WarpExchange& all) {
    uint64_t ballot = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      ballot |= (all.mask >> lane & 1) != 0 && all.values[lane] != 0 ? uint64_t{1} << lane : 0;
    }
    for (uint64_t& result : all.results) {
      result = ballot;
    }
  };
  return static_cast<uint32_t>(cuda_emulation::exchange(mask, predicate != 0 ? 1 : 0, 0, collect, site));
}
inline int __any_sync(uint32_t mask, int predicate, cuda_emulation::Site site = {}) {
  return __ballot_sync(mask, predicate, site) != 0 ? 1 : 0;
}
inline int __all_sync(uint32_t mask, int predicate, cuda_emulation::Site site = {}) {
  return __ballot_sync(mask, predicate, site) == mask ? 1 : 0;
}
template <class T>
uint32_t __match_any_sync(uint32_t mask, T value, cuda_emulation::Site site = {}) {
  const cuda_emulation::WarpOperation match = [](cuda_emulation::WarpExchange& all) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      all.results[lane] = 0;
      for (uint32_t other = 0; other < 32; ++other) {
        all.results[lane] |=
            (all.mask >> other & 1) != 0 && all.values[other] == all.values[lane] ? uint64_t{1} << other : 0;
      }
    }
  };
  return static_cast<uint32_t>(cuda_emulation::exchange(mask, cuda_emulation::to_word(value), 0, match, site));
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = warpSize, cuda_emulation::Site site = {}) {
  const int first = static_cast<int>(cuda_emulation::lane_index()) / width * width;
  return cuda_emulation::shuffle(mask, value, first + (source & (width - 1)), first, width, site);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, uint32_t distance, int width = warpSize, cuda_emulation::Site site = {}) {
  const int64_t lane = cuda_emulation::lane_index();
  return cuda_emulation::shuffle(mask, value, lane - distance, lane / width * width, width, site);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, uint32_t distance, int width = warpSize, cuda_emulation::Site site = {}) {
  const int64_t lane = cuda_emulation::lane_index();
  return cuda_emulation::shuffle(mask, value, lane + distance, lane / width * width, width, site);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int distance, int width = warpSize, cuda_emulation::Site site = {}) {
  // A source in a later part of the warp is not read, one in an earlier part is.
  const int64_t lane = cuda_emulation::lane_index();
  return cuda_emulation::shuffle(mask, value, lane ^ distance, 0, lane / width * width + width, site);
}
template <class T>
T __reduce_add_sync(uint32_t mask, T value, cuda_emulation::Site site = {}) {
  return cuda_emulation::reduce(mask, value, std::plus<T>{}, site);
}
template <class T>
T __reduce_or_sync(uint32_t mask, T value, cuda_emulation::Site site = {}) {
  return cuda_emulation::reduce(mask, value, std::bit_or<T>{}, site);
}
template <class T>
T __reduce_and_sync(uint32_t mask, T value, cuda_emulation::Site site = {}) {
  return cuda_emulation::reduce(mask, value, std::bit_and<T>{}, site);
}
struct EmulatedMin {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct EmulatedMax {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
template <class T>
T __reduce_min_sync(uint32_t mask, T value, cuda_emulation::Site site = {}) {
  return cuda_emulation::reduce(mask, value, EmulatedMin{}, site);
}
template <class T>
T __reduce_max_sync(uint32_t mask, T value, cuda_emulation::Site site = {}) {
  return cuda_emulation::reduce(mask, value, EmulatedMax{}, site);
}
inline uint32_t __activemask() {
  cuda_emulation::fail("__activemask() has no meaning here");
}
inline void __trap() {
  cuda_emulation::fail("__trap()");
}

// Memory.
inline void __threadfence() {
  cuda_emulation::fence();
}
inline void __threadfence_system() {
  cuda_emulation::fence();
}
inline void __threadfence_block() {}
inline void __nanosleep(uint32_t) {
  cuda_emulation::yield();
}
inline void cudaGridDependencySynchronize() {}
inline void cudaTriggerProgrammaticLaunchCompletion() {}

#define EMULATED_LOAD(name)  \
  template <class T>         \
  T name(const T* address) { \
    cuda_emulation::yield(); \
    return *address;         \
  }
EMULATED_LOAD(__ldcg)
EMULATED_LOAD(__ldcv)
#undef EMULATED_LOAD
#define EMULATED_LOAD(name)  \
  template <class T>         \
  T name(const T* address) { \
    return *address;         \
  }
EMULATED_LOAD(__ldg)
EMULATED_LOAD(__ldca)
EMULATED_LOAD(__ldcs)
#undef EMULATED_LOAD
#define EMULATED_STORE(name)                            \
  template <class T>                                    \
  void name(T* address, const std::decay_t<T>& value) { \
    *address = value;                                   \
  }
EMULATED_STORE(__stcg)
EMULATED_STORE(__stcs)
EMULATED_STORE(__stwt)
#undef EMULATED_STORE

// Inlined, so that a report has the caller's line.
#define EMULATED_ATOMIC(name, updated)                                                      \
  template <class T>                                                                        \
  __attribute__((always_inline)) inline T name(T* address, const std::decay_t<T>& value) {  \
    return cuda_emulation::atomic(address, [&](T old) { return static_cast<T>(updated); }); \
  }
EMULATED_ATOMIC(atomicAdd, old + value)
EMULATED_ATOMIC(atomicSub, old - value)
EMULATED_ATOMIC(atomicMin, value < old ? value : old)
EMULATED_ATOMIC(atomicMax, old < value ? value : old)
EMULATED_ATOMIC(atomicAnd, old& value)
EMULATED_ATOMIC(atomicOr, old | value)
EMULATED_ATOMIC(atomicXor, old ^ value)
EMULATED_ATOMIC(atomicExch, value)
#undef EMULATED_ATOMIC
template <class T>
__attribute__((always_inline)) inline T atomicCAS(T* address, const std::decay_t<T>& compare,
                                                  const std::decay_t<T>& value) {
  return cuda_emulation::atomic(address, [&](T old) { return old == compare ? value : old; });
}

inline size_t __cvta_generic_to_shared(const void* address) {
  return cuda_emulation::shared_address(address);
}
inline size_t __cvta_generic_to_global(const void* address) {
  return reinterpret_cast<size_t>(address);
}

// Arithmetic.
inline int __popc(uint32_t bits) {
  return __builtin_popcount(bits);
}
inline int __popcll(uint64_t bits) {
  return __builtin_popcountll(bits);
}
inline int __ffs(int bits) {
  return __builtin_ffs(bits);
}
inline int __ffsll(int64_t bits) {
  return __builtin_ffsll(bits);
}
inline int __clz(int bits) {
  return bits == 0 ? 32 : __builtin_clz(static_cast<uint32_t>(bits));
}
inline int __clzll(int64_t bits) {
  return bits == 0 ? 64 : __builtin_clzll(static_cast<uint64_t>(bits));
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
inline uint32_t __float_as_uint(float value) {
  return cuda_emulation::from_word<uint32_t>(cuda_emulation::to_word(value));
}
inline int __float_as_int(float value) {
  return cuda_emulation::from_word<int>(cuda_emulation::to_word(value));
}
inline float __uint_as_float(uint32_t bits) {
  return cuda_emulation::from_word<float>(bits);
}
inline float __int_as_float(int bits) {
  return cuda_emulation::from_word<float>(static_cast<uint32_t>(bits));
}
/// The device's is off by up to two units in the last place.
inline float rsqrtf(float value) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(value)));
}
#define EMULATED_MIN_MAX(T) \
  inline T min(T a, T b) {  \
    return b < a ? b : a;   \
  }                         \
  inline T max(T a, T b) {  \
    return a < b ? b : a;   \
  }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX
inline float min(float a, float b) {
  return fminf(a, b);
}
inline float max(float a, float b) {
  return fmaxf(a, b);
}
