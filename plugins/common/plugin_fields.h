#pragma once

#include <NvInferRuntimePlugin.h>

#include <cstdint>
#include <string>
#include <vector>

namespace torch_trt_ext::plugins {

/// A field that a plugin takes. `length` is the number of entries it must have, or kAnyLength.
struct FieldSpec {
  const char* name;
  nvinfer1::PluginFieldType type;
  int32_t length;
};

inline constexpr int32_t kAnyLength = -1;

/// Typed, checked reading of a creator's fields.
///
/// Borrows the collection, which must outlive it. Every error is a std::invalid_argument that names the field, what it
/// must be and what came.
class PluginFields {
 public:
  /// Checks that every field given is one of `specs`, has its type and length, and appears once.
  PluginFields(const nvinfer1::PluginFieldCollection* fields, const std::vector<FieldSpec>& specs);

  /// These throw when the field is missing.
  int32_t read_int32(const char* name) const;
  float read_float(const char* name) const;
  std::vector<float> read_floats(const char* name) const;
  std::vector<int32_t> read_int32s(const char* name) const;

  /// These return `default_value` when the field is missing.
  int32_t read_int32(const char* name, int32_t default_value) const;
  float read_float(const char* name, float default_value) const;
  /// A string ends at its length or at its first NUL.
  std::string read_string(const char* name, const char* default_value) const;

 private:
  const nvinfer1::PluginField* find(const char* name) const;
  const nvinfer1::PluginField& require(const char* name) const;

  std::vector<const nvinfer1::PluginField*> fields_;
};

/// The field's values as text that differs wherever they do.
std::string value_text(const nvinfer1::PluginField& field);

/// Throw std::invalid_argument naming the field when the value is out of its range.
void require_at_least(const char* name, int32_t value, int32_t minimum);
void require_fraction(const char* name, float value);
void require_finite(const char* name, float value);

}  // namespace torch_trt_ext::plugins
