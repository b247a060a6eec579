#include "runtime/io_spec.h"

#include <c10/util/Exception.h>

#include <array>
#include <set>

namespace torch_trt_ext {
namespace {

struct TypeNames {
  at::ScalarType dtype;
  const char* word;
  const char* name;
};

constexpr std::array<TypeNames, 11> kTypes = {{
    {at::kFloat, "Float", "float32"},
    {at::kHalf, "Half", "float16"},
    {at::kBFloat16, "BFloat16", "bfloat16"},
    {at::kDouble, "Double", "float64"},
    {at::kInt, "Int", "int32"},
    {at::kLong, "Long", "int64"},
    {at::kShort, "Short", "int16"},
    {at::kChar, "Char", "int8"},
    {at::kByte, "Byte", "uint8"},
    {at::kBool, "Bool", "bool"},
    {at::kFloat8_e4m3fn, "Float8_e4m3fn", "float8_e4m3fn"},
}};

std::string known_words() {
  std::string words;
  for (const TypeNames& type : kTypes) {
    words += (words.empty() ? "" : ", ") + std::string(type.word);
  }
  return words;
}

std::vector<at::ScalarType> parse_types(const char* what, const std::vector<std::string>& names,
                                        const std::vector<std::string>& words) {
  TORCH_CHECK_VALUE(names.size() == words.size(), what, "s must have one type a name, got ", names.size(),
                    " names and ", words.size(), " types; pass lists of equal length");
  std::set<std::string> seen;
  std::vector<at::ScalarType> types;
  types.reserve(words.size());
  for (size_t index = 0; index < words.size(); ++index) {
    TORCH_CHECK_VALUE(!names[index].empty(), what, " ", index, " must have a name, got an empty string; name it");
    TORCH_CHECK_VALUE(seen.insert(names[index]).second, what, " names must differ, got '", names[index],
                      "' twice; name each tensor once");
    const TypeNames* found = nullptr;
    for (const TypeNames& type : kTypes) {
      if (words[index] == type.word) {
        found = &type;
      }
    }
    TORCH_CHECK_VALUE(found != nullptr, "type of ", what, " '", names[index], "' must be one of ", known_words(),
                      ", got '", words[index], "'; use one of these words");
    types.push_back(found->dtype);
  }
  return types;
}

std::vector<std::string> words_of(const std::vector<at::ScalarType>& types) {
  std::vector<std::string> words;
  words.reserve(types.size());
  for (const at::ScalarType dtype : types) {
    words.push_back(type_word(dtype));
  }
  return words;
}

}  // namespace

IoSpec parse_io_spec(const IoNames& names) {
  IoSpec spec;
  spec.input_names = std::get<0>(names);
  spec.output_names = std::get<1>(names);
  spec.input_types = parse_types("input", spec.input_names, std::get<2>(names));
  spec.output_types = parse_types("output", spec.output_names, std::get<3>(names));
  TORCH_CHECK_VALUE(!spec.output_names.empty(), "an engine must have at least one output, got no output names");
  return spec;
}

IoNames to_io_names(const IoSpec& spec) {
  return {spec.input_names, spec.output_names, words_of(spec.input_types), words_of(spec.output_types)};
}

std::string type_word(at::ScalarType dtype) {
  for (const TypeNames& type : kTypes) {
    if (type.dtype == dtype) {
      return type.word;
    }
  }
  return c10::toString(dtype);
}

const char* dtype_name(at::ScalarType dtype) {
  for (const TypeNames& type : kTypes) {
    if (type.dtype == dtype) {
      return type.name;
    }
  }
  return c10::toString(dtype);
}

}  // namespace torch_trt_ext
