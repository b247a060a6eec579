#include "common/tensorrt_library.h"

#include <NvInferVersion.h>
#include <dlfcn.h>

#include <atomic>
#include <initializer_list>

#define TTE_STRINGIFY_VALUE(value) #value
#define TTE_STRINGIFY(value) TTE_STRINGIFY_VALUE(value)
#define TTE_SONAME(stem) stem ".so." TTE_STRINGIFY(NV_TENSORRT_MAJOR)

namespace torch_trt_ext::plugins {
namespace {

void* open_tensorrt() noexcept {
  for (const char* name :
       {TTE_SONAME("libnvinfer"), TTE_SONAME("libnvinfer_lean"), TTE_SONAME("libnvinfer_dispatch")}) {
    if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
      return library;
    }
  }
  return dlopen(TTE_SONAME("libnvinfer"), RTLD_LAZY | RTLD_LOCAL);
}

}  // namespace

void* find_tensorrt_symbol(const char* symbol) noexcept {
  // Never closed: the registry in it outlives us. Two threads that both find it hold one more reference, no harm.
  static std::atomic<void*> library{nullptr};
  void* found = library.load(std::memory_order_acquire);
  if (found == nullptr) {
    found = open_tensorrt();
    library.store(found, std::memory_order_release);
  }
  return found == nullptr ? nullptr : dlsym(found, symbol);
}

}  // namespace torch_trt_ext::plugins
