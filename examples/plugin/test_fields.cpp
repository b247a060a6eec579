// Asks the library for its creators, as TensorRT does, and tries good and bad fields. Needs no GPU and no TensorRT.

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

int failures = 0;

void expect(bool condition, const char* what) {
  if (!condition) {
    std::fprintf(stderr, "FAILED: %s\n", what);
    ++failures;
  }
}

/// A plugin of these fields, which the caller deletes; or null.
nvinfer1::IPluginV3* create(nvinfer1::IPluginCreatorV3One& creator, std::vector<PluginField> fields) {
  const nvinfer1::PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return creator.createPlugin("test", &collection, nvinfer1::TensorRTPhase::kBUILD);
}

bool is_refused(nvinfer1::IPluginCreatorV3One& creator, std::vector<PluginField> fields) {
  nvinfer1::IPluginV3* plugin = create(creator, std::move(fields));
  delete plugin;
  return plugin == nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (library == nullptr) {
    std::fprintf(stderr, "usage: %s library\n%s\n", argv[0], argc == 2 ? dlerror() : "");
    return 1;
  }
  using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
  const auto get_creators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
  if (get_creators == nullptr) {
    std::fprintf(stderr, "FAILED: the library must export getCreators\n");
    return 1;
  }
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* creators = get_creators(count);
  expect(count == 1, "one creator");
  auto& creator = *static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
  expect(std::strcmp(creator.getPluginName(), "BetaSwish") == 0, "its name");
  expect(creator.getFieldNames()->nbFields == 1, "its fields");

  const float beta = 1.5F;
  const float infinite = INFINITY;
  const int32_t integer = 1;
  expect(!is_refused(creator, {}), "beta may be missing");
  expect(is_refused(creator, {{"beta", &infinite, PluginFieldType::kFLOAT32, 1}}), "beta must be finite");
  expect(is_refused(creator, {{"beta", &integer, PluginFieldType::kINT32, 1}}), "beta must be float32");
  expect(is_refused(creator, {{"beta", &beta, PluginFieldType::kFLOAT32, 2}}), "beta must be one number");
  expect(is_refused(creator, {{"gamma", &beta, PluginFieldType::kFLOAT32, 1}}), "there is no other field");

  nvinfer1::IPluginV3* plugin = create(creator, {{"beta", &beta, PluginFieldType::kFLOAT32, 1}});
  expect(plugin != nullptr, "a good field");
  if (plugin != nullptr) {
    auto& runtime = *static_cast<nvinfer1::IPluginV3OneRuntime*>(
        plugin->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
    const nvinfer1::PluginFieldCollection* kept = runtime.getFieldsToSerialize();
    expect(kept->nbFields == 1 && *static_cast<const float*>(kept->fields[0].data) == beta, "beta is kept in plans");
    delete plugin;
  }
  return failures == 0 ? 0 : 1;
}
