#include "runtime/engine_state.h"

#include <c10/util/Exception.h>

#include "runtime/checksum.h"
#include "runtime/saved_text.h"
#include "runtime/utf8.h"

namespace torch_trt_ext {
namespace {

constexpr const char* kPlanChecksumField = "plan_xxh64";
constexpr const char* kPlanPiecesChecksumField = "plan_xxh64_of_mib";
constexpr const char* kStateChecksumField = "state_xxh64";
constexpr const char* kPluginField = "plugin_libraries";
constexpr const char* kCudaGraphsField = "cuda_graphs";
constexpr const char* kNameField = "name";
constexpr const char* kInputShapesField = "input_shapes";
constexpr const char* kOutputShapesField = "output_shapes";
constexpr const char* kProfilesField = "profiles";
constexpr const char* kWeightBudgetField = "weight_budget";
constexpr const char* kMadeOnPrefix = "made_on.";

/// How much of a text from a file a message repeats.
constexpr size_t kQuotedBytes = 64;

std::string plan_checksum(const at::Tensor& plan) {
  return checksum_hex(plan.const_data_ptr(), static_cast<size_t>(plan.numel()));
}

std::string plan_pieces_checksum(const at::Tensor& plan) {
  return checksum_hex_of_pieces(plan.const_data_ptr(), static_cast<size_t>(plan.numel()));
}

void append_text(std::string& bytes, const std::string& text) {
  bytes += std::to_string(text.size()) + ":" + text;
}

/// Over all fields but the one that holds it, in the order of their names.
std::string state_checksum(int64_t version, const Facts& fields) {
  std::string bytes = std::to_string(version);
  for (const auto& [name, values] : fields) {
    if (name != kStateChecksumField) {
      append_text(bytes, name);
      bytes += std::to_string(values.size()) + ";";
      for (const std::string& value : values) {
        append_text(bytes, value);
      }
    }
  }
  return checksum_hex(bytes.data(), bytes.size());
}

/// Fit for a message, whatever the bytes are.
std::string escape(const std::string& text) {
  std::string escaped;
  for (const char character : text.substr(0, kQuotedBytes)) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte >= 0x20 && byte < 0x7F) {
      escaped += character;
    } else {
      escaped += {'\\', 'x', "0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
    }
  }
  return text.size() > kQuotedBytes ? escaped + "..." : escaped;
}

std::string quote(const std::string& text) {
  return "'" + escape(text) + "'";
}

std::string checked_text(const c10::IValue& value, const std::string& what) {
  TORCH_CHECK_VALUE(value.isString(), what, " of a saved engine must be a string, got ", value.tagKind(), kDamaged);
  const std::string& text = value.toStringRef();
  TORCH_CHECK_VALUE(find_no_utf8(text) == std::string::npos, what, " of a saved engine must be UTF-8 text, got ",
                    quote(text), kDamaged);
  return text;
}

/// Reads a dictionary that came from a file: torch marks it as one of lists of strings without a look at what it holds.
Facts checked_fields(const c10::impl::GenericDict& dict) {
  Facts fields;
  for (const auto& item : dict) {
    const std::string name = checked_text(item.key(), "the name of a field");
    TORCH_CHECK_VALUE(item.value().isList(), "field ", quote(name),
                      " of a saved engine must be a list of strings, got ", item.value().tagKind(), kDamaged);
    std::vector<std::string>& values = fields[name];
    for (const c10::IValue& value : item.value().toListRef()) {
      values.push_back(checked_text(value, "an item of field " + quote(name)));
    }
  }
  return fields;
}

const std::vector<std::string>& required_field(const Facts& fields, const std::string& name) {
  const auto found = fields.find(name);
  TORCH_CHECK_VALUE(found != fields.end(), "a saved engine must have the field '", name,
                    "', this one has none; the file is damaged or was not written by torch_trt_ext, save it again");
  return found->second;
}

int64_t parse_budget(const std::vector<std::string>& words) {
  const int64_t bytes = words.size() == 1 ? parse_int(words[0]).value_or(-1) : -1;
  TORCH_CHECK_VALUE(bytes >= 0, "field '", kWeightBudgetField, "' of a saved engine must be a number of bytes, got ",
                    words.empty() ? "nothing" : quote(words[0]), kDamaged);
  return bytes;
}

void check_plan_tensor(const at::Tensor& plan) {
  TORCH_CHECK_VALUE(plan.defined() && plan.scalar_type() == at::kByte && plan.dim() == 1,
                    "the plan of a saved engine must be a 1-D uint8 tensor, got ",
                    plan.defined() ? dtype_name(plan.scalar_type()) : "none", plan.defined() ? " with " : "",
                    plan.defined() ? std::to_string(plan.dim()) + " dimensions" : "", kDamaged);
  // A stride of zero announces any number of bytes without holding them.
  TORCH_CHECK_VALUE(plan.layout() == at::kStrided && !plan.is_meta() && plan.is_contiguous(),
                    "the plan of a saved engine must be a tensor whose bytes follow each other in memory, got ",
                    plan.is_meta()                  ? "one on the meta device"
                    : plan.layout() == at::kStrided ? "strides"
                                                    : "none",
                    kDamaged);
}

}  // namespace

PackedState pack_state(const EngineState& state) {
  Facts fields;
  const auto [input_names, output_names, input_types, output_types] = to_io_names(state.io);
  fields["input_names"] = input_names;
  fields["output_names"] = output_names;
  fields["input_types"] = input_types;
  fields["output_types"] = output_types;
  // For readers from before there was the other.
  fields[kPlanChecksumField] = {plan_checksum(state.plan)};
  fields[kPlanPiecesChecksumField] = {plan_pieces_checksum(state.plan)};
  fields[kPluginField] = state.plugin_libraries;
  fields[kCudaGraphsField] = {state.cuda_graphs ? "on" : "off"};
  fields[kNameField] = {state.name};
  if (state.shapes.known()) {
    fields[kInputShapesField] = to_words(state.shapes.inputs);
    fields[kOutputShapesField] = to_words(state.shapes.outputs);
    fields[kProfilesField] = to_words(state.shapes.profiles);
  }
  if (state.weight_budget.has_value()) {
    fields[kWeightBudgetField] = {std::to_string(*state.weight_budget)};
  }
  for (const auto& [name, values] : state.made_on) {
    fields[kMadeOnPrefix + name] = values;
  }
  fields[kStateChecksumField] = {state_checksum(kStateVersion, fields)};

  c10::Dict<std::string, c10::List<std::string>> packed;
  for (const auto& [name, values] : fields) {
    packed.insert(name, c10::List<std::string>(c10::ArrayRef<std::string>(values)));
  }
  return {kStateVersion, state.plan, packed};
}

EngineState unpack_state(const PackedState& packed) {
  const auto& [version, plan, packed_fields] = packed;
  TORCH_CHECK_VALUE(version >= 1, "a saved engine must be of version 1 to ", kStateVersion, ", got version ", version,
                    kDamaged);
  TORCH_CHECK_VALUE(version <= kStateVersion, "a saved engine must be of version 1 to ", kStateVersion,
                    ", got version ", version, "; load it with a newer torch_trt_ext");
  check_plan_tensor(plan);
  const Facts fields = checked_fields(c10::impl::toGenericDict(packed_fields));
  EngineState state;
  state.plan = plan.to(at::kCPU);

  // One is enough. Files from before there was the faster one have the other.
  const bool in_pieces = fields.count(kPlanPiecesChecksumField) > 0;
  const std::vector<std::string> checksum =
      required_field(fields, in_pieces ? kPlanPiecesChecksumField : kPlanChecksumField);
  const std::string actual = in_pieces ? plan_pieces_checksum(state.plan) : plan_checksum(state.plan);
  TORCH_CHECK_VALUE(checksum == std::vector<std::string>{actual}, "the plan of a saved engine must have the checksum ",
                    checksum.empty() ? "that was saved with it" : escape(checksum[0]), ", got ", actual, " over ",
                    state.plan.numel(), " bytes", kDamaged);
  state.io = parse_io_spec({required_field(fields, "input_names"), required_field(fields, "output_names"),
                            required_field(fields, "input_types"), required_field(fields, "output_types")});
  state.plugin_libraries = required_field(fields, kPluginField);
  // Files from before there was this field ran without.
  if (const auto cuda_graphs = fields.find(kCudaGraphsField); cuda_graphs != fields.end()) {
    const std::vector<std::string>& words = cuda_graphs->second;
    TORCH_CHECK_VALUE(words.size() == 1 && (words[0] == "on" || words[0] == "off"), "field '", kCudaGraphsField,
                      "' of a saved engine must be on or off, got ",
                      words.empty() ? "nothing" : quote(words.size() == 1 ? words[0] : words[1]), kDamaged);
    state.cuda_graphs = words[0] == "on";
  }
  // Files from before there was this field have no name.
  if (const auto name = fields.find(kNameField); name != fields.end()) {
    TORCH_CHECK_VALUE(name->second.size() == 1, "field '", kNameField, "' of a saved engine must be one name, got ",
                      name->second.size(), kDamaged);
    state.name = name->second[0];
  }
  // Files from before there were these fields, and of engines that never ran, say nothing of shapes.
  if (const auto profiles = fields.find(kProfilesField); profiles != fields.end()) {
    state.shapes = parse_shapes(state.io, required_field(fields, kInputShapesField),
                                required_field(fields, kOutputShapesField), profiles->second);
  }
  if (const auto budget = fields.find(kWeightBudgetField); budget != fields.end()) {
    state.weight_budget = parse_budget(budget->second);
  }
  const std::string prefix = kMadeOnPrefix;
  for (const auto& [name, values] : fields) {
    if (name.compare(0, prefix.size(), prefix) == 0) {
      state.made_on[name.substr(prefix.size())] = values;
    }
  }
  // Last, since every check before says more about what is wrong. Files from before there was this field have none.
  if (const auto saved = fields.find(kStateChecksumField); saved != fields.end()) {
    const std::string computed = state_checksum(version, fields);
    TORCH_CHECK_VALUE(saved->second == std::vector<std::string>{computed},
                      "names, types and facts of a saved engine must have the checksum ",
                      saved->second.empty() ? "that was saved with them" : escape(saved->second[0]), ", got ", computed,
                      kDamaged);
  }
  return state;
}

}  // namespace torch_trt_ext
