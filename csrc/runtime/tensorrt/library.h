#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>

namespace torch_trt_ext::tensorrt {

/// libnvinfer, opened at run time. Every other call goes through the virtual interfaces it hands out.
///
/// Looked for in this order: a copy already loaded, TENSORRT_ROOT (itself, lib/, lib64/), folders that were added
/// (pip's tensorrt_libs, by the Python package), the system's search path.
class Library {
 public:
  /// The library, or null; then `error` says what was tried. A failed search is repeated at the next call.
  static const Library* find(std::string& error);

  /// Takes effect until the library is found.
  static void add_folder(const std::string& folder);

  /// Null with an error in the log when TensorRT cannot start.
  std::unique_ptr<nvinfer1::IRuntime> create_runtime(nvinfer1::ILogger& logger) const;
  nvinfer1::IPluginRegistry& plugin_registry() const { return *plugin_registry_(); }

  /// "10.6.0"
  const std::string& version() const { return version_; }
  /// Where it was found, ending in a slash; TensorRT's other libraries are beside it.
  const std::string& folder() const { return folder_; }

 private:
  static std::unique_ptr<Library> open(std::string& error);

  void* (*create_runtime_)(void* logger, int32_t version) noexcept = nullptr;
  nvinfer1::IPluginRegistry* (*plugin_registry_)() noexcept = nullptr;
  std::string version_;
  std::string folder_;
};

}  // namespace torch_trt_ext::tensorrt
