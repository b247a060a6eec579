#include "runtime/plugin_names.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <sstream>

namespace torch_trt_ext {
namespace {

struct Plugins {
  std::mutex mutex;
  std::vector<std::string> folders;
  std::vector<std::string> opened;
  PluginOpener opener = nullptr;

  Plugins() {
    if (const char* const path = std::getenv("TORCH_TRT_EXT_PLUGIN_PATH")) {
      std::istringstream stream(path);
      for (std::string folder; std::getline(stream, folder, ':');) {
        if (!folder.empty()) {
          folders.push_back(folder);
        }
      }
    }
  }
};

Plugins& plugins() {
  static Plugins* const instance = new Plugins();
  return *instance;
}

std::string file_name(const std::string& path) {
  return path.substr(path.find_last_of('/') + 1);
}

bool is_open(const std::string& name) {
  const std::lock_guard<std::mutex> lock(plugins().mutex);
  return std::find(plugins().opened.begin(), plugins().opened.end(), name) != plugins().opened.end();
}

std::string find_in_trusted_folders(const std::string& name) {
  if (name.empty() || name.find('/') != std::string::npos) {
    return "";
  }
  const std::lock_guard<std::mutex> lock(plugins().mutex);
  for (const std::string& folder : plugins().folders) {
    std::string path = folder + "/" + name;
    if (access(path.c_str(), R_OK) == 0) {
      return path;
    }
  }
  return "";
}

}  // namespace

std::vector<std::string> opened_plugin_names() {
  const std::lock_guard<std::mutex> lock(plugins().mutex);
  return plugins().opened;
}

void open_plugins_by_name(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (is_open(name)) {
      continue;
    }
    const std::string path = find_in_trusted_folders(name);
    if (!path.empty()) {
      // A failure shows as a library that is still not open; describe_missing_plugins reports it.
      (void)open_plugin_library(path);
    }
  }
}

std::string describe_missing_plugins(const std::vector<std::string>& names) {
  std::string missing;
  for (const std::string& name : names) {
    if (!is_open(name)) {
      missing += (missing.empty() ? "" : ", ") + name;
    }
  }
  if (missing.empty()) {
    return "";
  }
  return "it was made with the plugin libraries " + missing +
         ", which are not open; call torch_trt_ext.load_plugin_library(path), or name their folder in "
         "TORCH_TRT_EXT_PLUGIN_PATH, before the model is loaded";
}

std::string open_plugin_library(const std::string& path) {
  PluginOpener opener = nullptr;
  {
    const std::lock_guard<std::mutex> lock(plugins().mutex);
    opener = plugins().opener;
  }
  if (opener == nullptr) {
    return "plugin library " + path + " needs TensorRT engines, which this build of torch_trt_ext has none of";
  }
  std::string error = opener(path);
  if (error.empty() && !is_open(file_name(path))) {
    const std::lock_guard<std::mutex> lock(plugins().mutex);
    plugins().opened.push_back(file_name(path));
  }
  return error;
}

void add_plugin_folder(const std::string& folder) {
  const std::lock_guard<std::mutex> lock(plugins().mutex);
  plugins().folders.push_back(folder);
}

void set_plugin_opener(PluginOpener opener) {
  const std::lock_guard<std::mutex> lock(plugins().mutex);
  plugins().opener = opener;
}

}  // namespace torch_trt_ext
