#pragma once

/// What CUDA sources see when they are compiled for the CPU: every CUDA thread is a fiber, and whatever threads wait
/// for each other at (barriers, warp operations) is a rendezvous of fibers. Included before everything else in each
/// source, which build.py has rewritten: launches, shared variables and inline PTX are calls of what is declared here.
///
/// Not a model of time: a fiber runs until its next rendezvous or atomic operation. scheduler.cpp decides who is next,
/// memory.cpp checks each access (g++ -fsanitize=thread makes them calls), device.cpp answers the host's questions.

// The real headers take what is defined already, and must not see an architecture, for which they have inline PTX.
#define __device__
#define __host__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ build_py_does_not_understand_this_shared_variable
#define __constant__ the_emulation_has_no_constant_memory
#define __cluster_dims__(...) the_emulation_has_no_compile_time_clusters

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __CUDA_ARCH__ 900

inline constexpr int warpSize = 32;

/// Of the thread that runs.
inline uint3 threadIdx;
inline uint3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;

namespace cuda_emulation {

/// Where in the sources a thread waits; threads that wait for each other must do so at the same place.
struct Site {
  const char* file;
  int line;
  Site(const char* in_file = __builtin_FILE(), int at_line = __builtin_LINE()) : file(in_file), line(at_line) {}
};

/// Ends the launch with an error; Python raises it.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// Lets other threads run; for loops that wait for them.
void yield();

// Rendezvous.
enum class Scope { kBlock, kCluster, kGrid };
/// Returns for how many of the block's threads `predicate` is true.
uint32_t sync_block(bool predicate, Site site);
void arrive(Scope scope, bool relaxed, Site site);
void wait(Scope scope, Site site);
inline void sync(Scope scope, Site site) {
  arrive(scope, false, site);
  wait(scope, site);
}

/// What the lanes of a mask bring to a warp operation, and what each takes away.
struct WarpExchange {
  uint32_t mask;
  uint64_t values[32];
  uint32_t sources[32];
  uint64_t results[32];
};
using WarpOperation = void (*)(WarpExchange&);
uint64_t exchange(uint32_t mask, uint64_t value, uint32_t source, WarpOperation operation, Site site);

template <class T>
uint64_t to_word(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "lanes exchange up to 8 bytes");
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}
template <class T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

uint32_t lane_index();
uint32_t thread_rank();

/// `source` outside the caller's part of the warp, of `width` lanes, stands for the caller.
template <class T>
T shuffle(uint32_t mask, T value, int64_t source, int64_t first, int64_t width, Site site) {
  const int64_t lane = lane_index();
  const uint32_t from = static_cast<uint32_t>(source >= first && source < first + width ? source : lane);
  const WarpOperation operation = [](WarpExchange& all) {
    for (uint32_t to = 0; to < 32; ++to) {
      if ((all.mask >> to & 1) != 0) {
        if ((all.mask >> all.sources[to] & 1) == 0) {
          fail("lane %u shuffles from lane %u, which is not in the mask 0x%x", to, all.sources[to], all.mask);
        }
        all.results[to] = all.values[all.sources[to]];
      }
    }
  };
  return from_word<T>(exchange(mask, to_word(value), from, operation, site));
}

/// Every lane gets the values of all, combined two at a time.
template <class T, class Combine>
T reduce(uint32_t mask, T value, Combine, Site site) {
  const WarpOperation operation = [](WarpExchange& all) {
    uint32_t left = all.mask;
    T sum = from_word<T>(all.values[__builtin_ctz(left)]);
    while ((left &= left - 1) != 0) {
      sum = Combine{}(sum, from_word<T>(all.values[__builtin_ctz(left)]));
    }
    for (uint64_t& result : all.results) {
      result = to_word(sum);
    }
  };
  return from_word<T>(exchange(mask, to_word(value), 0, operation, site));
}

// Memory.
/// A block's variable that has not been asked for before is laid out after the others, which are guarded.
void* shared_variable(const void* key, const char* name, size_t size_bytes, size_t alignment);
void* dynamic_shared(const char* name);
template <class T, class Key>
T& shared(const char* name) {
  static const char key = 0;
  return *static_cast<T*>(shared_variable(&key, name, sizeof(T), alignof(T) < 16 ? 16 : alignof(T)));
}
/// The same variable of another block of the cluster.
void* of_cluster_block(const void* address, uint32_t rank);
uint32_t cluster_size();
uint32_t cluster_rank();
/// Between the two, accesses are one atomic operation at `address`.
void begin_atomic(void* address, size_t size_bytes);
void end_atomic();
void fence();
uint32_t shared_address(const void* address);
/// Copies when the thread waits for it, not before.
void copy_async(uint32_t shared_to, uint64_t from, size_t size_bytes);
void wait_for_copies();

template <class T, class Update>
__attribute__((always_inline)) inline T atomic(T* address, Update update) {
  begin_atomic(address, sizeof(T));
  const T before = *address;
  *address = update(before);
  end_atomic();
  return before;
}

// Launches.
struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t dynamic_bytes;
  dim3 cluster{1, 1, 1};
  bool is_cooperative = false;
  LaunchShape(dim3 of_grid = 1, dim3 of_block = 1, size_t shared_bytes = 0, cudaStream_t = nullptr)
      : grid(of_grid), block(of_block), dynamic_bytes(shared_bytes) {}
};
/// A launch of a kernel whose arguments are where the pointers say.
using Launcher = cudaError_t (*)(const void* kernel, const LaunchShape&, void** arguments);
/// What one launch calls, with copies of the arguments; threads read nothing else of the host's.
template <class... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  std::tuple<std::decay_t<Parameters>...> arguments;
};
cudaError_t run(const void* kernel, const LaunchShape&, const void* call, size_t call_bytes,
                void (*body)(const void* call));
LaunchShape launch_shape(const cudaLaunchConfig_t& config);
void remember(const void* kernel, Launcher launcher);
void require_launch_bounds(uint32_t threads, ...);

template <class... Parameters>
cudaError_t launch_call(const LaunchShape& shape, const Call<Parameters...>& call) {
  return run(reinterpret_cast<const void*>(call.kernel), shape, &call, sizeof(call), [](const void* address) {
    const auto& that = *static_cast<const Call<Parameters...>*>(address);
    std::apply(that.kernel, that.arguments);
  });
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, Arguments&&... arguments) {
  return launch_call<Parameters...>(shape, {kernel, {static_cast<Parameters>(std::forward<Arguments>(arguments))...}});
}

template <class... Parameters, size_t... kIndices>
cudaError_t launch_pointers(void (*kernel)(Parameters...), const LaunchShape& shape, void** arguments,
                            std::index_sequence<kIndices...>) {
  return launch_call<Parameters...>(shape, {kernel, {*static_cast<std::decay_t<Parameters>*>(arguments[kIndices])...}});
}

/// What reinterpret_cast<const void*> is rewritten to: remembers how to launch what it makes untyped.
template <class... Parameters>
const void* as_address(void (*kernel)(Parameters...)) {
  const void* address = reinterpret_cast<const void*>(kernel);
  remember(address, [](const void* what, const LaunchShape& shape, void** arguments) {
    using Kernel = void (*)(Parameters...);
    return launch_pointers(reinterpret_cast<Kernel>(const_cast<void*>(what)), shape, arguments,
                           std::index_sequence_for<Parameters...>{});
  });
  return address;
}
template <class T>
const void* as_address(T* address) {
  return address;
}
template <class T, std::enable_if_t<std::is_integral_v<T>, int> = 0>
const void* as_address(T address) {
  return reinterpret_cast<const void*>(address);
}

}  // namespace cuda_emulation

// The runtime's templates.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  return cuda_emulation::launch(kernel, cuda_emulation::launch_shape(*config), std::forward<Arguments>(arguments)...);
}
template <class... Parameters>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments,
                                        size_t dynamic_bytes = 0, cudaStream_t stream = nullptr) {
  return cudaLaunchCooperativeKernel(cuda_emulation::as_address(kernel), grid, block, arguments, dynamic_bytes, stream);
}
template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*kernel)(Parameters...), int threads,
                                                          size_t dynamic_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, cuda_emulation::as_address(kernel), threads,
                                                       dynamic_bytes);
}
template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*kernel)(Parameters...),
                                           const cudaLaunchConfig_t* config) {
  return cudaOccupancyMaxActiveClusters(clusters, cuda_emulation::as_address(kernel), config);
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(cuda_emulation::as_address(kernel), attribute, value);
}
template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(Parameters...)) {
  return cudaFuncGetAttributes(attributes, cuda_emulation::as_address(kernel));
}

#include "device_functions.h"
