#pragma once

#include <c10/core/ScalarType.h>

#include <string>
#include <tuple>
#include <vector>

namespace torch_trt_ext {

/// The constructor's second argument: input names, output names, input types, output types.
using IoNames =
    std::tuple<std::vector<std::string>, std::vector<std::string>, std::vector<std::string>, std::vector<std::string>>;

/// What the caller passes and gets: names in the order of forward's lists, and the dtype of each tensor.
struct IoSpec {
  std::vector<std::string> input_names;
  std::vector<std::string> output_names;
  std::vector<at::ScalarType> input_types;
  std::vector<at::ScalarType> output_types;
};

/// Reads names and type words. Throws c10::ValueError for an unknown word, a missing or repeated name, or lists whose
/// lengths differ.
IoSpec parse_io_spec(const IoNames& names);

IoNames to_io_names(const IoSpec& spec);

/// The word for a dtype in constructor arguments: "Float", "Half", "Int", "Long", ...
std::string type_word(at::ScalarType dtype);

/// The name that people know a dtype by in messages: "float32", "float16", "int32", ...
const char* dtype_name(at::ScalarType dtype);

}  // namespace torch_trt_ext
