#include "common/plugin_fields.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace torch_trt_ext::plugins {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

std::string type_name(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kFLOAT16:
      return "float16";
    case PluginFieldType::kFLOAT32:
      return "float32";
    case PluginFieldType::kFLOAT64:
      return "float64";
    case PluginFieldType::kINT8:
      return "int8";
    case PluginFieldType::kINT16:
      return "int16";
    case PluginFieldType::kINT32:
      return "int32";
    case PluginFieldType::kINT64:
      return "int64";
    case PluginFieldType::kCHAR:
      return "char";
    default:
      return "type " + std::to_string(static_cast<int32_t>(type));
  }
}

[[noreturn]] void fail(const std::string& name, const std::string& requirement, const std::string& actual) {
  throw std::invalid_argument("field '" + name + "' must be " + requirement + ", got " + actual);
}

void check_field(const PluginField& field, const FieldSpec& spec) {
  if (field.type != spec.type) {
    fail(spec.name, type_name(spec.type), type_name(field.type));
  }
  if (spec.length != kAnyLength && field.length != spec.length) {
    fail(spec.name, std::to_string(spec.length) + " value(s) long", std::to_string(field.length));
  }
  if (field.length < 0 || (field.length > 0 && field.data == nullptr)) {
    fail(spec.name, "an array with data", "none (length " + std::to_string(field.length) + ")");
  }
}

template <class T>
T load(const PluginField& field) {
  // memcpy: nothing promises that a field's data is aligned for its type.
  T value;
  std::memcpy(&value, field.data, sizeof(T));
  return value;
}

template <class T>
std::vector<T> load_all(const PluginField& field) {
  std::vector<T> values(static_cast<size_t>(field.length));
  if (!values.empty()) {
    std::memcpy(values.data(), field.data, values.size() * sizeof(T));
  }
  return values;
}

}  // namespace

PluginFields::PluginFields(const nvinfer1::PluginFieldCollection* fields, const std::vector<FieldSpec>& specs) {
  const int32_t count = fields == nullptr ? 0 : fields->nbFields;
  for (int32_t index = 0; index < count; ++index) {
    const PluginField& field = fields->fields[index];
    const std::string name = field.name == nullptr ? "" : field.name;
    const auto spec = std::find_if(specs.begin(), specs.end(), [&](const FieldSpec& it) { return name == it.name; });
    if (spec == specs.end()) {
      std::string known;
      for (const FieldSpec& it : specs) {
        known += (known.empty() ? "'" : ", '") + std::string(it.name) + "'";
      }
      throw std::invalid_argument("field '" + name + "' is not one of " + known);
    }
    if (find(spec->name) != nullptr) {
      fail(name, "given once", "it twice");
    }
    check_field(field, *spec);
    fields_.push_back(&field);
  }
}

const PluginField* PluginFields::find(const char* name) const {
  const auto it = std::find_if(fields_.begin(), fields_.end(),
                               [&](const PluginField* field) { return std::strcmp(field->name, name) == 0; });
  return it == fields_.end() ? nullptr : *it;
}

const PluginField& PluginFields::require(const char* name) const {
  const PluginField* field = find(name);
  if (field == nullptr) {
    fail(name, "given", "no such field");
  }
  return *field;
}

int32_t PluginFields::read_int32(const char* name) const {
  return load<int32_t>(require(name));
}

float PluginFields::read_float(const char* name) const {
  return load<float>(require(name));
}

std::vector<float> PluginFields::read_floats(const char* name) const {
  return load_all<float>(require(name));
}

std::vector<int32_t> PluginFields::read_int32s(const char* name) const {
  return load_all<int32_t>(require(name));
}

int32_t PluginFields::read_int32(const char* name, int32_t default_value) const {
  const PluginField* field = find(name);
  return field == nullptr ? default_value : load<int32_t>(*field);
}

float PluginFields::read_float(const char* name, float default_value) const {
  const PluginField* field = find(name);
  return field == nullptr ? default_value : load<float>(*field);
}

std::string PluginFields::read_string(const char* name, const char* default_value) const {
  const PluginField* field = find(name);
  if (field == nullptr) {
    return default_value;
  }
  const char* text = static_cast<const char*>(field->data);
  return std::string(text, std::find(text, text + field->length, '\0'));
}

std::string value_text(const PluginField& field) {
  const size_t value_bytes = field.type == PluginFieldType::kCHAR || field.type == PluginFieldType::kINT8 ? 1 : 4;
  const auto* const bytes = static_cast<const unsigned char*>(field.data);
  std::string text;
  for (size_t index = 0; index < static_cast<size_t>(field.length) * value_bytes; ++index) {
    text += {"0123456789abcdef"[bytes[index] >> 4], "0123456789abcdef"[bytes[index] & 15]};
  }
  return text;
}

void require_at_least(const char* name, int32_t value, int32_t minimum) {
  if (value < minimum) {
    fail(name, "at least " + std::to_string(minimum), std::to_string(value));
  }
}

void require_fraction(const char* name, float value) {
  if (!(value >= 0.0F && value <= 1.0F)) {
    fail(name, "in [0, 1]", std::to_string(value));
  }
}

void require_finite(const char* name, float value) {
  if (!std::isfinite(value)) {
    fail(name, "finite", std::to_string(value));
  }
}

}  // namespace torch_trt_ext::plugins
