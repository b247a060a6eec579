#include "runtime/io_binding.h"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

namespace torch_trt_ext {
namespace {

std::string join(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) {
    text += (text.empty() ? "'" : ", '") + item + "'";
  }
  return text.empty() ? "none" : text;
}

std::vector<std::string> names_of(const std::vector<TensorInfo>& tensors) {
  std::vector<std::string> names;
  names.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) {
    names.push_back(tensor.name);
  }
  return names;
}

std::vector<size_t> index_by_name(const char* what, const std::vector<std::string>& names,
                                  const std::vector<TensorInfo>& tensors) {
  std::vector<size_t> indices;
  indices.reserve(names.size());
  for (const std::string& name : names) {
    const auto found =
        std::find_if(tensors.begin(), tensors.end(), [&name](const TensorInfo& tensor) { return tensor.name == name; });
    TORCH_CHECK_VALUE(found != tensors.end(), what, " '", name, "' must be one of the engine's ", what, "s (",
                      join(names_of(tensors)), "); correct the ", what, " names given to the constructor");
    indices.push_back(static_cast<size_t>(found - tensors.begin()));
  }
  return indices;
}

/// Whether `indices` are 0, 1, ..., `count` - 1.
bool in_order(const std::vector<size_t>& indices, size_t count) {
  std::vector<size_t> ordered(count);
  std::iota(ordered.begin(), ordered.end(), size_t{0});
  return indices == ordered;
}

bool in_range(const ShapeRange& range, at::IntArrayRef sizes) {
  if (sizes.size() != range.min.size()) {
    return false;
  }
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    if (sizes[dim] < range.min[dim] || sizes[dim] > range.max[dim]) {
      return false;
    }
  }
  return true;
}

std::string describe_range(const ShapeRange& range) {
  std::ostringstream text;
  text << "[";
  for (size_t dim = 0; dim < range.min.size(); ++dim) {
    text << (dim == 0 ? "" : ", ") << range.min[dim];
    if (range.max[dim] != range.min[dim]) {
      text << "..";
      if (range.max[dim] == INT64_MAX) {
        text << "any";
      } else {
        text << range.max[dim];
      }
    }
  }
  text << "]";
  return text.str();
}

/// The logarithm of how many elements a profile's largest shapes hold: smaller is tighter.
double log_volume(const Profile& profile) {
  double volume = 0;
  for (const ShapeRange& range : profile) {
    for (const int64_t size : range.max) {
      volume += std::log(static_cast<double>(std::max<int64_t>(size, 1)));
    }
  }
  return volume;
}

/// Without a trip through the dispatcher where there is nothing to cast.
at::Tensor cast(at::Tensor tensor, at::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
}

/// The call that turns `tensor` into what the engine takes, for the end of a message.
std::string remedy(const at::Tensor& tensor, at::ScalarType dtype, at::Device device) {
  std::ostringstream text;
  text << "call ";
  if (tensor.scalar_type() != dtype && tensor.device() != device) {
    text << ".to('" << device << "', torch." << dtype_name(dtype) << ")";
  } else if (tensor.scalar_type() != dtype) {
    text << ".to(torch." << dtype_name(dtype) << ")";
  } else {
    text << ".to('" << device << "')";
  }
  return text.str();
}

}  // namespace

IoBinding::IoBinding(const IoSpec& spec, const Engine& engine)
    : engine_(engine),
      spec_(spec),
      input_index_(index_by_name("input", spec.input_names, engine.inputs())),
      output_index_(index_by_name("output", spec.output_names, engine.outputs())),
      profile_order_(engine.profiles().size()) {
  TORCH_CHECK_VALUE(spec.input_names.size() == engine.inputs().size(), "input names must cover the engine's ",
                    engine.inputs().size(), " inputs (", join(names_of(engine.inputs())), "), got ",
                    join(spec.input_names), "; name every input");
  inputs_in_order_ = in_order(input_index_, engine.inputs().size());
  outputs_in_order_ = in_order(output_index_, engine.outputs().size());
  const std::vector<Profile>& profiles = engine.profiles();
  std::iota(profile_order_.begin(), profile_order_.end(), size_t{0});
  std::stable_sort(profile_order_.begin(), profile_order_.end(), [&profiles](size_t left, size_t right) {
    return log_volume(profiles[left]) < log_volume(profiles[right]);
  });
}

bool IoBinding::accepts_tensor(size_t position, const at::Tensor& tensor) const {
  if (!tensor.defined() || tensor.layout() != at::kStrided || tensor.scalar_type() != spec_.input_types[position]) {
    return false;
  }
  return engine_.inputs()[input_index_[position]].on_host ? tensor.is_cpu() : tensor.device() == engine_.device();
}

bool IoBinding::in_profile(const Profile& profile, at::TensorList inputs) const {
  for (size_t position = 0; position < inputs.size(); ++position) {
    if (!in_range(profile[input_index_[position]], inputs[position].sizes())) {
      return false;
    }
  }
  return true;
}

bool IoBinding::find_profile(at::TensorList inputs, size_t& profile) const {
  for (const size_t candidate : profile_order_) {
    if (in_profile(engine_.profiles()[candidate], inputs)) {
      profile = candidate;
      return true;
    }
  }
  return false;
}

bool IoBinding::accepts(at::TensorList inputs) const {
  if (inputs.size() != input_index_.size()) {
    return false;
  }
  for (size_t position = 0; position < inputs.size(); ++position) {
    if (!accepts_tensor(position, inputs[position])) {
      return false;
    }
  }
  size_t profile = 0;
  if (!find_profile(inputs, profile)) {
    return false;
  }
  for (size_t position = 0; position < inputs.size(); ++position) {
    if (!engine_.accepts_values(input_index_[position], inputs[position])) {
      return false;
    }
  }
  return true;
}

std::vector<at::Tensor> IoBinding::bind(std::vector<at::Tensor> inputs, size_t& profile) const {
  if (inputs.size() != input_index_.size()) {
    throw_misfit(inputs);
  }
  for (size_t position = 0; position < inputs.size(); ++position) {
    if (!accepts_tensor(position, inputs[position])) {
      throw_misfit(inputs);
    }
  }
  if (!find_profile(inputs, profile)) {
    throw_misfit(inputs);
  }
  if (!inputs_in_order_) {
    std::vector<at::Tensor> ordered(inputs.size());
    for (size_t position = 0; position < inputs.size(); ++position) {
      ordered[input_index_[position]] = std::move(inputs[position]);
    }
    inputs = std::move(ordered);
  }
  for (size_t index = 0; index < inputs.size(); ++index) {
    at::Tensor& tensor = inputs[index];
    tensor = cast(std::move(tensor), engine_.inputs()[index].dtype);
    if (!tensor.is_contiguous()) {
      tensor = tensor.contiguous();
    }
  }
  return inputs;
}

std::vector<at::Tensor> IoBinding::unbind(std::vector<at::Tensor> outputs) const {
  if (!outputs_in_order_) {
    std::vector<at::Tensor> ordered;
    ordered.reserve(output_index_.size());
    for (const size_t index : output_index_) {
      // Copied, not moved: a name may be given twice.
      ordered.push_back(outputs[index]);
    }
    outputs = std::move(ordered);
  }
  for (size_t position = 0; position < outputs.size(); ++position) {
    outputs[position] = cast(std::move(outputs[position]), spec_.output_types[position]);
  }
  return outputs;
}

void IoBinding::check_tensor(size_t position, const at::Tensor& tensor) const {
  const TensorInfo& info = engine_.inputs()[input_index_[position]];
  const at::Device device = info.on_host ? at::Device(at::kCPU) : engine_.device();
  const at::ScalarType dtype = spec_.input_types[position];
  TORCH_CHECK_VALUE(tensor.defined(), "input '", info.name, "' must be a tensor, got an undefined one; pass a tensor");
  TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, "input '", info.name, "' must be dense, got layout ",
                    tensor.layout(), "; call .to_dense()");
  TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, "input '", info.name, "' must be ", dtype_name(dtype), " on ", device,
                   ", got ", dtype_name(tensor.scalar_type()), " on ", tensor.device(), "; ",
                   remedy(tensor, dtype, device));
  TORCH_CHECK_VALUE(tensor.device() == device, "input '", info.name, "' must be ", dtype_name(dtype), " on ", device,
                    ", got ", dtype_name(tensor.scalar_type()), " on ", tensor.device(), "; ",
                    remedy(tensor, dtype, device));
  TORCH_CHECK_VALUE(tensor.dim() == static_cast<int64_t>(info.shape.size()), "input '", info.name, "' must have ",
                    info.shape.size(), " dimensions, got ", tensor.dim(), " with shape ", tensor.sizes(),
                    "; reshape it, or add the batch dimension with .unsqueeze(0)");
}

void IoBinding::throw_out_of_range(at::TensorList inputs) const {
  const std::vector<Profile>& profiles = engine_.profiles();
  for (size_t position = 0; position < inputs.size(); ++position) {
    const at::Tensor& tensor = inputs[position];
    std::string ranges;
    bool fits_one = false;
    for (const Profile& profile : profiles) {
      const ShapeRange& range = profile[input_index_[position]];
      fits_one = fits_one || in_range(range, tensor.sizes());
      const std::string text = describe_range(range);
      if (ranges.find(text) == std::string::npos) {
        ranges += (ranges.empty() ? "" : " or ") + text;
      }
    }
    TORCH_CHECK_VALUE(fits_one, "input '", spec_.input_names[position], "' must have a shape in ", ranges, ", got ",
                      tensor.sizes(), "; pass such a shape, or build the engine with a profile that covers it");
  }
  std::ostringstream shapes;
  for (size_t position = 0; position < inputs.size(); ++position) {
    shapes << (position == 0 ? "" : ", ") << "'" << spec_.input_names[position] << "' " << inputs[position].sizes();
  }
  TORCH_CHECK_VALUE(false, "the inputs' shapes must all lie in one of the engine's ", profiles.size(),
                    " profiles, each does in some but together they do not: ", shapes.str(),
                    "; build the engine with a profile that covers them");
}

void IoBinding::throw_misfit(at::TensorList inputs) const {
  TORCH_CHECK_VALUE(inputs.size() == input_index_.size(), "forward must get ", input_index_.size(), " inputs (",
                    join(spec_.input_names), "), got ", inputs.size(), "; pass one tensor for each, in this order");
  for (size_t position = 0; position < inputs.size(); ++position) {
    check_tensor(position, inputs[position]);
  }
  throw_out_of_range(inputs);
}

}  // namespace torch_trt_ext
