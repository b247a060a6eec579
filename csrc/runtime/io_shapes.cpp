#include "runtime/io_shapes.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <string_view>

#include "runtime/saved_text.h"

namespace torch_trt_ext {
namespace {

constexpr size_t kShapesInRange = 3;

size_t index_of(const std::vector<TensorInfo>& tensors, const std::string& name) {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&name](const TensorInfo& tensor) { return tensor.name == name; });
  TORCH_INTERNAL_ASSERT(found != tensors.end());
  return static_cast<size_t>(found - tensors.begin());
}

std::string to_word(const std::vector<int64_t>& shape) {
  std::string word;
  for (const int64_t size : shape) {
    word += (word.empty() ? "" : "x") + std::to_string(size);
  }
  return word;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(end + 1);
  }
}

std::vector<int64_t> parse_shape(std::string_view word, int64_t least) {
  std::vector<int64_t> shape;
  if (word.empty()) {
    return shape;
  }
  for (const std::string_view part : split(word, 'x')) {
    const std::optional<int64_t> size = parse_int(part);
    TORCH_CHECK_VALUE(size.has_value() && *size >= least, "a shape of a saved engine must be sizes of at least ", least,
                      " like 1x3x224x224, got ", word.size(), " characters of something else", kDamaged);
    shape.push_back(*size);
  }
  return shape;
}

std::vector<std::vector<int64_t>> parse_all(const std::vector<std::string>& words, size_t count, const char* what) {
  TORCH_CHECK_VALUE(words.size() == count, "a saved engine must have one shape for each of its ", count, " ", what,
                    "s, got ", words.size(), kDamaged);
  std::vector<std::vector<int64_t>> shapes;
  for (const std::string& word : words) {
    shapes.push_back(parse_shape(word, -1));
  }
  return shapes;
}

Profile parse_profile(std::string_view word, size_t inputs) {
  Profile profile;
  if (inputs == 0) {
    TORCH_CHECK_VALUE(word.empty(), "a profile of a saved engine without inputs must be empty, got ", word.size(),
                      " characters", kDamaged);
    return profile;
  }
  const std::vector<std::string_view> ranges = split(word, ';');
  TORCH_CHECK_VALUE(ranges.size() == inputs, "a profile of a saved engine must have a range for each of its ", inputs,
                    " inputs, got ", ranges.size(), kDamaged);
  for (const std::string_view range : ranges) {
    const std::vector<std::string_view> shapes = split(range, ',');
    TORCH_CHECK_VALUE(shapes.size() == kShapesInRange,
                      "a range of a saved engine must be its smallest, tuned and largest shape, got ", shapes.size(),
                      kDamaged);
    ShapeRange parsed = {parse_shape(shapes[0], 0), parse_shape(shapes[1], 0), parse_shape(shapes[2], 0)};
    TORCH_CHECK_VALUE(parsed.min.size() == parsed.opt.size() && parsed.opt.size() == parsed.max.size(),
                      "the shapes of a range of a saved engine must have one rank, got ", parsed.min.size(), ", ",
                      parsed.opt.size(), " and ", parsed.max.size(), kDamaged);
    profile.push_back(std::move(parsed));
  }
  return profile;
}

}  // namespace

IoShapes shapes_of(const IoSpec& spec, const Engine& engine) {
  IoShapes shapes;
  shapes.profiles.resize(engine.profiles().size());
  for (const std::string& name : spec.input_names) {
    const size_t index = index_of(engine.inputs(), name);
    shapes.inputs.push_back(engine.inputs()[index].shape);
    for (size_t profile = 0; profile < shapes.profiles.size(); ++profile) {
      shapes.profiles[profile].push_back(engine.profiles()[profile][index]);
    }
  }
  for (const std::string& name : spec.output_names) {
    shapes.outputs.push_back(engine.outputs()[index_of(engine.outputs(), name)].shape);
  }
  return shapes;
}

std::vector<std::string> to_words(const std::vector<std::vector<int64_t>>& shapes) {
  std::vector<std::string> words;
  for (const std::vector<int64_t>& shape : shapes) {
    words.push_back(to_word(shape));
  }
  return words;
}

std::vector<std::string> to_words(const std::vector<Profile>& profiles) {
  std::vector<std::string> words;
  for (const Profile& profile : profiles) {
    std::string& word = words.emplace_back();
    for (size_t input = 0; input < profile.size(); ++input) {
      const ShapeRange& range = profile[input];
      word += (input == 0 ? "" : ";") + to_word(range.min) + "," + to_word(range.opt) + "," + to_word(range.max);
    }
  }
  return words;
}

IoShapes parse_shapes(const IoSpec& spec, const std::vector<std::string>& inputs,
                      const std::vector<std::string>& outputs, const std::vector<std::string>& profiles) {
  IoShapes shapes;
  shapes.inputs = parse_all(inputs, spec.input_names.size(), "input");
  shapes.outputs = parse_all(outputs, spec.output_names.size(), "output");
  for (const std::string& word : profiles) {
    shapes.profiles.push_back(parse_profile(word, spec.input_names.size()));
  }
  return shapes;
}

}  // namespace torch_trt_ext
