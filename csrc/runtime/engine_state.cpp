#include "runtime/engine_state.h"

#include <c10/util/Exception.h>

#include "runtime/checksum.h"

namespace torch_trt_ext {
namespace {

constexpr const char* kChecksumField = "plan_xxh64";
constexpr const char* kPluginField = "plugin_libraries";
constexpr const char* kCudaGraphsField = "cuda_graphs";
constexpr const char* kNameField = "name";
constexpr const char* kMadeOnPrefix = "made_on.";

using Fields = c10::Dict<std::string, c10::List<std::string>>;

c10::List<std::string> list_of(const std::vector<std::string>& items) {
  c10::List<std::string> list;
  list.reserve(items.size());
  for (const std::string& item : items) {
    list.push_back(item);
  }
  return list;
}

std::vector<std::string> strings_of(const c10::List<std::string>& list) {
  std::vector<std::string> items;
  items.reserve(list.size());
  for (size_t index = 0; index < list.size(); ++index) {
    items.push_back(list.get(index));
  }
  return items;
}

std::vector<std::string> required_field(const Fields& fields, const std::string& name) {
  const auto found = fields.find(name);
  TORCH_CHECK_VALUE(found != fields.end(), "a saved engine must have the field '", name,
                    "', this one has none; the file is damaged or was not written by torch_trt_ext, save it again");
  return strings_of(found->value());
}

}  // namespace

PackedState pack_state(const EngineState& state) {
  Fields fields;
  const auto [input_names, output_names, input_types, output_types] = to_io_names(state.io);
  fields.insert("input_names", list_of(input_names));
  fields.insert("output_names", list_of(output_names));
  fields.insert("input_types", list_of(input_types));
  fields.insert("output_types", list_of(output_types));
  fields.insert(kChecksumField,
                list_of({checksum_hex(state.plan.const_data_ptr(), static_cast<size_t>(state.plan.numel()))}));
  fields.insert(kPluginField, list_of(state.plugin_libraries));
  fields.insert(kNameField, list_of({state.name}));
  fields.insert(kCudaGraphsField, list_of({state.cuda_graphs ? "on" : "off"}));
  for (const auto& [name, values] : state.made_on) {
    fields.insert(kMadeOnPrefix + name, list_of(values));
  }
  return {kStateVersion, state.plan, fields};
}

EngineState unpack_state(const PackedState& packed) {
  const auto& [version, plan, fields] = packed;
  TORCH_CHECK_VALUE(version >= 1, "a saved engine must be of version 1 to ", kStateVersion, ", got version ", version,
                    "; the file is damaged, save it again");
  TORCH_CHECK_VALUE(version <= kStateVersion, "a saved engine must be of version 1 to ", kStateVersion,
                    ", got version ", version, "; load it with a newer torch_trt_ext");
  TORCH_CHECK_VALUE(plan.defined() && plan.scalar_type() == at::kByte && plan.dim() == 1,
                    "the plan of a saved engine must be a 1-D uint8 tensor, got ",
                    plan.defined() ? dtype_name(plan.scalar_type()) : "none", plan.defined() ? " with " : "",
                    plan.defined() ? std::to_string(plan.dim()) + " dimensions" : "",
                    "; the file is damaged, save it again");
  EngineState state;
  state.plan = plan.to(at::kCPU).contiguous();
  const std::vector<std::string> checksum = required_field(fields, kChecksumField);
  const std::string actual = checksum_hex(state.plan.const_data_ptr(), static_cast<size_t>(state.plan.numel()));
  TORCH_CHECK_VALUE(checksum.size() == 1 && checksum[0] == actual, "the plan of a saved engine must have the checksum ",
                    checksum.empty() ? "that was saved with it" : checksum[0], ", got ", actual, " over ",
                    state.plan.numel(), " bytes; the file is damaged, save it again");
  state.io = parse_io_spec({required_field(fields, "input_names"), required_field(fields, "output_names"),
                            required_field(fields, "input_types"), required_field(fields, "output_types")});
  state.plugin_libraries = required_field(fields, kPluginField);
  const auto name = fields.find(kNameField);
  if (name != fields.end() && name->value().size() == 1) {
    state.name = name->value().get(0);
  }
  // Files from before there was this field ran without.
  const auto cuda_graphs = fields.find(kCudaGraphsField);
  state.cuda_graphs = cuda_graphs != fields.end() && strings_of(cuda_graphs->value()) == std::vector<std::string>{"on"};
  const std::string prefix = kMadeOnPrefix;
  for (const auto& field : fields) {
    if (field.key().compare(0, prefix.size(), prefix) == 0) {
      state.made_on[field.key().substr(prefix.size())] = strings_of(field.value());
    }
  }
  return state;
}

}  // namespace torch_trt_ext
