#include <unordered_map>

#include "machine.h"

/// The part of CUDA's runtime that launchers call, for one device.

namespace cuda_emulation {
namespace {

cudaError_t last_error = cudaSuccess;
std::unordered_map<const void*, Launcher> launchers;
std::unordered_map<const void*, int> dynamic_bytes;

cudaError_t launch_address(const void* kernel, const LaunchShape& shape, void** arguments) {
  const auto launcher = launchers.find(kernel);
  return launcher == launchers.end() ? keep_error(cudaErrorInvalidDeviceFunction)
                                     : launcher->second(kernel, shape, arguments);
}

}  // namespace

void remember(const void* kernel, Launcher launcher) {
  launchers[kernel] = launcher;
}

size_t dynamic_bytes_allowed(const void* kernel) {
  const auto allowed = dynamic_bytes.find(kernel);
  return allowed == dynamic_bytes.end() ? kSharedWithoutAsking : static_cast<size_t>(allowed->second);
}

cudaError_t keep_error(cudaError_t status) {
  last_error = status == cudaSuccess ? last_error : status;
  return status;
}

LaunchShape launch_shape(const cudaLaunchConfig_t& config) {
  LaunchShape shape(config.gridDim, config.blockDim, config.dynamicSmemBytes, config.stream);
  for (unsigned index = 0; index < config.numAttrs; ++index) {
    const cudaLaunchAttribute& attribute = config.attrs[index];
    if (attribute.id == cudaLaunchAttributeClusterDimension) {
      shape.cluster = {attribute.val.clusterDim.x, attribute.val.clusterDim.y, attribute.val.clusterDim.z};
    } else if (attribute.id == cudaLaunchAttributeCooperative) {
      shape.is_cooperative = attribute.val.cooperative != 0;
    }
  }
  return shape;
}

}  // namespace cuda_emulation

using namespace cuda_emulation;

cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
  return last_error;
}

const char* cudaGetErrorString(cudaError_t) {
  return "an error of the emulation";
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = settings.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = settings.capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = settings.capability % 10;
      return cudaSuccess;
    case cudaDevAttrClusterLaunch:
      *value = settings.capability >= 90 ? 1 : 0;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(kSharedWithoutAsking);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(kSharedBytes);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(kSharedBytes) + 1024;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    default:
      return keep_error(cudaErrorInvalidValue);
  }
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t count, cudaStream_t) {
  if (!is_writable(memory, count)) {
    failure = "cudaMemsetAsync of memory outside of every buffer that may be written";
    return keep_error(cudaErrorInvalidValue);
  }
  std::memset(memory, value, count);
  return cudaSuccess;
}

cudaError_t cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                                        size_t dynamic_bytes, cudaStream_t) {
  LaunchShape shape(grid, block, dynamic_bytes);
  shape.is_cooperative = true;
  return launch_address(kernel, shape, arguments);
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t dynamic_bytes,
                             cudaStream_t) {
  return launch_address(kernel, LaunchShape(grid, block, dynamic_bytes), arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  return launch_address(kernel, launch_shape(*config), arguments);
}

/// One block at most, so that few are on the device at once.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* kernel, const cudaLaunchConfig_t* config) {
  const bool fits = settings.capability >= 90 && config->dynamicSmemBytes <= dynamic_bytes_allowed(kernel);
  *clusters = fits ? 1 : 0;
  return fits ? cudaSuccess : keep_error(cudaErrorInvalidConfiguration);
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<size_t>(value) > kSharedBytes) {
      return keep_error(cudaErrorInvalidValue);
    }
    dynamic_bytes[kernel] = value;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->ptxVersion = attributes->binaryVersion = settings.capability;
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(dynamic_bytes_allowed(kernel));
  return cudaSuccess;
}

#define EXPORT extern "C" __attribute__((visibility("default")))

/// Launchers may keep what they learn of the device: to be called before the first launch.
EXPORT void emulation_set_device(int multiprocessors, int capability) {
  settings.multiprocessors = multiprocessors;
  settings.capability = capability;
}

EXPORT void emulation_set_seed(uint32_t seed) {
  settings.seed = seed;
}

/// What went wrong since the last call, empty if nothing; valid until the next one.
EXPORT const char* emulation_take_failure() {
  static std::string taken;
  taken = std::exchange(failure, {});
  return taken.c_str();
}
