#include "runtime/tensorrt/library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <vector>

namespace torch_trt_ext::tensorrt {
namespace {

struct Search {
  std::mutex mutex;
  std::vector<std::string> folders;
  std::unique_ptr<Library> found;
};

Search& search() {
  static Search* const instance = new Search();
  return *instance;
}

const std::string& file_name() {
  static const std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
  return name;
}

std::string version_text(int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

template <typename Function>
bool find_symbol(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

const Library* Library::find(std::string& error) {
  const std::lock_guard<std::mutex> lock(search().mutex);
  if (search().found == nullptr) {
    search().found = open(error);
  }
  return search().found.get();
}

void Library::add_folder(const std::string& folder) {
  const std::lock_guard<std::mutex> lock(search().mutex);
  search().folders.push_back(folder);
}

std::unique_ptr<Library> Library::open(std::string& error) {
  std::vector<std::string> paths;
  if (const char* const root = std::getenv("TENSORRT_ROOT")) {
    for (const char* const folder : {"/lib/", "/lib64/", "/"}) {
      paths.push_back(root + (folder + file_name()));
    }
  }
  for (const std::string& folder : search().folders) {
    paths.push_back(folder + "/" + file_name());
  }
  paths.push_back(file_name());

  std::string tried;
  void* handle = dlopen(file_name().c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  for (size_t index = 0; handle == nullptr && index < paths.size(); ++index) {
    handle = dlopen(paths[index].c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      tried += (tried.empty() ? "" : "; ") + std::string(dlerror());
    }
  }
  if (handle == nullptr) {
    error = "TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + " (" + file_name() +
            ") was not found; set TENSORRT_ROOT to its folder, or pip install tensorrt (tried: " + tried + ")";
    return nullptr;
  }
  auto library = std::make_unique<Library>();
  int32_t (*library_version)() noexcept = nullptr;
  if (!find_symbol(handle, "createInferRuntime_INTERNAL", library->create_runtime_) ||
      !find_symbol(handle, "getPluginRegistry", library->plugin_registry_) ||
      !find_symbol(handle, "getInferLibVersion", library_version)) {
    error = file_name() + " lacks an entry point of TensorRT " + std::to_string(NV_TENSORRT_MAJOR) +
            "; the file is damaged or is another library, install TensorRT again";
    return nullptr;
  }
  library->version_ = version_text(library_version());
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(library->plugin_registry_), &info) != 0 && info.dli_fname != nullptr) {
    const std::string path = info.dli_fname;
    library->folder_ = path.substr(0, path.find_last_of('/') + 1);
  }
  return library;
}

std::unique_ptr<nvinfer1::IRuntime> Library::create_runtime(nvinfer1::ILogger& logger) const {
  return std::unique_ptr<nvinfer1::IRuntime>(
      static_cast<nvinfer1::IRuntime*>(create_runtime_(&logger, NV_TENSORRT_VERSION)));
}

}  // namespace torch_trt_ext::tensorrt
