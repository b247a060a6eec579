#include "runtime/tensorrt/plugin_libraries.h"

#include <dlfcn.h>
#include <unistd.h>

#include <mutex>
#include <set>

#include "runtime/plugin_names.h"
#include "runtime/tensorrt/error_recorder.h"
#include "runtime/tensorrt/logger.h"

namespace torch_trt_ext::tensorrt {
namespace {

int32_t count_creators(nvinfer1::IPluginRegistry& registry) {
  int32_t count = 0;
  (void)registry.getAllCreators(&count);
  return count;
}

std::string open_and_register(const Library& library, const std::string& path) {
  nvinfer1::IPluginRegistry& registry = library.plugin_registry();
  const bool was_open = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD) != nullptr;
  const int32_t count_before = count_creators(registry);
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return "plugin library must be one that can be opened, " + path + " cannot: " + dlerror();
  }
  // Ours can be asked to register again: it may have been opened before TensorRT was there to be found.
  if (const auto register_now = reinterpret_cast<int32_t (*)()>(dlsym(handle, "torch_trt_ext_plugins_register"))) {
    (void)register_now();
    return "";
  }
  // Many plugin libraries register themselves when they are opened; a second registration would be refused. One that
  // did not stays open all the same, and must not pass for registered at the next try.
  static std::mutex mutex;
  static std::set<void*>& refused = *new std::set<void*>();
  const std::lock_guard<std::mutex> lock(mutex);
  if (refused.count(handle) == 0 && (was_open || count_creators(registry) > count_before)) {
    return "";
  }
  if (dlsym(handle, "getCreators") == nullptr) {
    refused.insert(handle);
    return "plugin library must register its plugins when opened or export getCreators, " + path +
           " does neither; build it with one of the two";
  }
  ErrorRecorder::forget();
  if (registry.loadLibrary(path.c_str()) == nullptr) {
    refused.insert(handle);
    return "TensorRT must accept the plugin library " + path + ", it did not: " + ErrorRecorder::last_words();
  }
  return "";
}

/// PluginOpener for libraries that the user names.
std::string open_plugin(const std::string& path) {
  std::string error;
  const Library* const library = Library::find(error);
  return library == nullptr ? "plugin library " + path + " needs TensorRT: " + error
                            : open_and_register(*library, path);
}

std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) {
    return "";
  }
  const std::string path = info.dli_fname;
  return path.substr(0, path.find_last_of('/') + 1);
}

void register_tensorrt_plugins(const Library& library) {
  const std::string name = "libnvinfer_plugin.so." + std::to_string(NV_TENSORRT_MAJOR);
  void* handle = dlopen((library.folder() + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (handle == nullptr) {
    return;
  }
  using Initialize = bool (*)(void* logger, const char* library_namespace);
  if (const auto initialize = reinterpret_cast<Initialize>(dlsym(handle, "initLibNvInferPlugins"))) {
    (void)initialize(&Logger::instance(), "");
  }
}

const bool kOpenerIsSet = [] {
  set_plugin_opener(&open_plugin);
  return true;
}();

}  // namespace

const std::string& register_standard_plugins(const Library& library) {
  static std::string& failure = *new std::string();
  static std::once_flag once;
  std::call_once(once, [&library] {
    (void)kOpenerIsSet;
    register_tensorrt_plugins(library);
    const std::string path = own_folder() + "libtorch_trt_ext_plugins.so";
    if (access(path.c_str(), R_OK) == 0) {
      failure = open_and_register(library, path);
    }
  });
  return failure;
}

}  // namespace torch_trt_ext::tensorrt
