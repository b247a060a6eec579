// The plugin `BetaSwish`, version "1", namespace "": x * sigmoid(beta * x), for float32 and float16 of any shape.
//
// An ONNX node becomes it by its name: BetaSwish<beta=1.5>(x).

#include <NvInferRuntime.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "beta_swish.h"

namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr const char* kName = "BetaSwish";
constexpr const char* kVersion = "1";

nvinfer1::ILoggerFinder* logger_finder = nullptr;

void log_error(const std::string& message) noexcept {
  nvinfer1::ILogger* logger = logger_finder == nullptr ? nullptr : logger_finder->findLogger();
  const std::string words = std::string(kName) + ": " + message;
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, words.c_str());
  } else {
    std::fprintf(stderr, "%s\n", words.c_str());
  }
}

/// Runs `action` where TensorRT calls, which no exception may cross. Returns 0, or 1 after logging what was thrown.
template <class Action>
int32_t run_guarded(Action&& action) noexcept {
  try {
    action();
    return 0;
  } catch (const std::exception& error) {
    log_error(error.what());
  }
  return 1;
}

/// The fields of one plugin. Every error names the field.
struct Fields {
  float beta = 1.0F;

  explicit Fields(const nvinfer1::PluginFieldCollection* given) {
    const int32_t count = given == nullptr ? 0 : given->nbFields;
    for (int32_t index = 0; index < count; ++index) {
      const PluginField& field = given->fields[index];
      const std::string name = field.name == nullptr ? "" : field.name;
      if (name != "beta") {
        throw std::invalid_argument("field '" + name + "' is not one of 'beta'");
      }
      if (field.type != PluginFieldType::kFLOAT32 || field.length != 1 || field.data == nullptr) {
        throw std::invalid_argument("field 'beta' must be one float32, got " + std::to_string(field.length) +
                                    " value(s) of type " + std::to_string(static_cast<int32_t>(field.type)));
      }
      // Nothing promises that the data is aligned.
      std::memcpy(&beta, field.data, sizeof(beta));
      if (!std::isfinite(beta)) {
        throw std::invalid_argument("field 'beta' must be finite, got " + std::to_string(beta));
      }
    }
  }
};

class BetaSwishPlugin final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit BetaSwishPlugin(const Fields& fields) : fields_(fields) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  nvinfer1::IPluginV3* clone() noexcept override {
    nvinfer1::IPluginV3* copy = nullptr;
    run_guarded([&] { copy = new BetaSwishPlugin(fields_); });
    return copy;
  }

  /// Each execution context gets a plugin of its own: the place to allocate what a context needs.
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* /*context*/) noexcept override {
    return clone();
  }

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }
  int32_t getNbOutputs() const noexcept override { return 1; }

  int32_t getOutputDataTypes(DataType* output_types, int32_t num_outputs, const DataType* input_types,
                             int32_t num_inputs) const noexcept override {
    return run_guarded([&] {
      if (num_inputs != 1 || num_outputs != 1 ||
          (input_types[0] != DataType::kFLOAT && input_types[0] != DataType::kHALF)) {
        throw std::invalid_argument("must have one input, float32 or float16");
      }
      output_types[0] = input_types[0];
    });
  }

  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t /*num_inputs*/,
                          const nvinfer1::DimsExprs* /*shape_inputs*/, int32_t /*num_shape_inputs*/,
                          nvinfer1::DimsExprs* outputs, int32_t /*num_outputs*/,
                          nvinfer1::IExprBuilder& /*builder*/) noexcept override {
    outputs[0] = inputs[0];
    return 0;
  }

  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t num_inputs,
                                 int32_t num_outputs) noexcept override {
    const nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
    return num_inputs == 1 && num_outputs == 1 && tensor.format == nvinfer1::TensorFormat::kLINEAR &&
           (tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF) && tensor.type == tensors[0].desc.type;
  }

  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* /*inputs*/, int32_t /*num_inputs*/,
                          const nvinfer1::DynamicPluginTensorDesc* /*outputs*/,
                          int32_t /*num_outputs*/) noexcept override {
    return 0;
  }

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* /*inputs*/, int32_t /*num_inputs*/,
                        const nvinfer1::PluginTensorDesc* /*outputs*/, int32_t /*num_outputs*/) noexcept override {
    return 0;
  }

  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc* /*output_descs*/,
                  const void* const* inputs, void* const* outputs, void* /*workspace*/,
                  cudaStream_t stream) noexcept override {
    return run_guarded([&] {
      int64_t count = 1;
      for (int32_t axis = 0; axis < input_descs[0].dims.nbDims; ++axis) {
        count *= input_descs[0].dims.d[axis];
      }
      const cudaError_t status =
          launch_beta_swish(inputs[0], outputs[0], count, fields_.beta, input_descs[0].type == DataType::kHALF, stream);
      if (status != cudaSuccess) {
        throw std::runtime_error(std::string("a launch failed: ") + cudaGetErrorString(status));
      }
    });
  }

  /// What a plan keeps of the plugin; a creator makes it again from these.
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    serialized_[0] = {"beta", &fields_.beta, PluginFieldType::kFLOAT32, 1};
    collection_ = {static_cast<int32_t>(serialized_.size()), serialized_.data()};
    return &collection_;
  }

 private:
  Fields fields_;
  std::array<PluginField, 1> serialized_;
  nvinfer1::PluginFieldCollection collection_{};
};

class BetaSwishCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  /// Null for a bad field, after logging which.
  nvinfer1::IPluginV3* createPlugin(const char* /*name*/, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase /*phase*/) noexcept override {
    nvinfer1::IPluginV3* plugin = nullptr;
    run_guarded([&] { plugin = new BetaSwishPlugin(Fields(fields)); });
    return plugin;
  }

  /// The ONNX parser passes on the attributes that are named here.
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }

 private:
  std::array<PluginField, 1> names_{PluginField{"beta", nullptr, PluginFieldType::kFLOAT32, 1}};
  nvinfer1::PluginFieldCollection collection_{static_cast<int32_t>(names_.size()), names_.data()};
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

/// What IPluginRegistry::loadLibrary, trtexec --dynamicPlugins and torch_trt_ext.load_plugin_library ask for. The
/// creators live as long as the process.
EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static BetaSwishCreator& creator = *new BetaSwishCreator();
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

/// TensorRT calls this when it loads the library, before anything else.
EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  logger_finder = finder;
}
