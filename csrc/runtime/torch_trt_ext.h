#pragma once

// What a C++ program may call of libtorch_trt_ext.so. Loading the library is enough to torch::jit::load models that
// hold engines; these calls say where else to look. All are thread safe and take UTF-8 paths.

#ifdef __cplusplus
extern "C" {
#endif

/// Adds a folder to look in for the library that runs engines of `kind` ("tensorrt"), after a copy that is already
/// loaded and TENSORRT_ROOT, before the system's. Without effect once that library is loaded.
__attribute__((visibility("default"))) void torch_trt_ext_add_library_folder(const char* kind, const char* folder);

/// Why engines of `kind` ("tensorrt" or "openvino") cannot run in this process, or null when they can. The message is
/// valid until this thread's next call.
__attribute__((visibility("default"))) const char* torch_trt_ext_missing_runtime(const char* kind);

/// Trusts a folder to hold plugin libraries: a saved model that names libmine.so finds it there.
__attribute__((visibility("default"))) void torch_trt_ext_add_plugin_folder(const char* folder);

/// Opens a plugin library and registers its plugins. Engines made from then on remember its file name. Returns an
/// error message, or null on success; the message is valid until this thread's next call.
__attribute__((visibility("default"))) const char* torch_trt_ext_open_plugin_library(const char* path);

/// Takes a message of the engine libraries: its level (10 debug, 20 info, 30 warning, 40 error), who says it
/// ("tensorrt"), and the text. Called on whatever thread says it.
typedef void (*torch_trt_ext_log_function)(int level, const char* source, const char* message);

/// Sends messages of `least_level` (at first 30) and above to `function` from now on; null is torch's own log.
__attribute__((visibility("default"))) void torch_trt_ext_set_log(torch_trt_ext_log_function function, int least_level);

#ifdef __cplusplus
}
#endif
