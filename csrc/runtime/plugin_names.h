#pragma once

#include <string>
#include <vector>

namespace torch_trt_ext {

// Plugin libraries by file name ("libmine.so"). A saved model carries such names only; where they are looked for is the
// process's own choice (torch_trt_ext.h), so that no file can make the runtime open a path of its own.

/// Names of the libraries opened by open_plugin_library, in that order.
std::vector<std::string> opened_plugin_names();

/// Opens each library that is not open yet and lies in a trusted folder. A name with a folder in it, or found nowhere,
/// is passed over: a plan that needs it is refused later, and describe_missing_plugins says why.
void open_plugins_by_name(const std::vector<std::string>& names);

/// Empty, or a sentence that names those of the libraries that are not open.
std::string describe_missing_plugins(const std::vector<std::string>& names);

/// Opens the library at `path` and registers its plugins. Returns an error message, empty on success.
std::string open_plugin_library(const std::string& path);

/// Trusts `folder` to hold plugin libraries.
void add_plugin_folder(const std::string& folder);

/// How a library at a path is opened and its plugins registered; returns an error message, empty on success. Set once,
/// by the backend that has plugins.
using PluginOpener = std::string (*)(const std::string& path);
void set_plugin_opener(PluginOpener opener);

}  // namespace torch_trt_ext
