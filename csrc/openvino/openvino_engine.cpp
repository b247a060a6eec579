#include "openvino_engine.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#include <openvino/op/parameter.hpp>
#include <openvino/runtime/properties.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iomanip>
#include <limits>
#include <sstream>

#include "element_types.h"
#include "openvino_error.h"
#include "runtime/log.h"

namespace torch_trt_ext {
namespace {

/// Stands in for the address of a tensor without elements, which OpenVINO does not take as null.
alignas(64) char g_no_elements[64];

std::string port_name(const char* what, size_t index, const ov::Output<const ov::Node>& port) {
  const auto& names = port.get_names();
  TORCH_CHECK_VALUE(!names.empty(), what, " ", index, " of the OpenVINO model must have a name, got none; call port.",
                    "get_tensor().set_names({...}) before packing the model");
  return *std::min_element(names.begin(), names.end());
}

std::vector<int64_t> to_sizes(const ov::PartialShape& shape) {
  std::vector<int64_t> sizes;
  if (shape.rank().is_static()) {
    for (const ov::Dimension& dimension : shape) {
      sizes.push_back(dimension.is_static() ? dimension.get_length() : -1);
    }
  }
  return sizes;
}

TensorInfo to_tensor_info(const char* what, size_t index, const ov::Output<const ov::Node>& port) {
  TensorInfo info;
  info.name = port_name(what, index, port);
  const auto dtype = to_scalar_type(port.get_element_type());
  TORCH_CHECK_VALUE(dtype.has_value(), what, " '", info.name,
                    "' of the OpenVINO model must have a type that torch has, got ",
                    port.get_element_type().to_string(), "; convert it in the model");
  info.dtype = *dtype;
  info.shape = to_sizes(port.get_partial_shape());
  return info;
}

ShapeRange to_shape_range(const ov::PartialShape& shape) {
  ShapeRange range;
  for (const ov::Dimension& dimension : shape) {
    const int64_t max = dimension.get_max_length();
    range.min.push_back(dimension.get_min_length());
    range.max.push_back(max < 0 ? std::numeric_limits<int64_t>::max() : max);
  }
  range.opt = range.min;
  return range;
}

/// Whether OpenVINO can be told beforehand where to write the output.
bool can_bind_output(const ov::Output<const ov::Node>& port) {
  // OpenVINO 2026.4.1 leaves the memory given for an output untouched when the output is an input passed on.
  const bool is_input = ov::is_type<ov::op::v0::Parameter>(port.get_node()->get_input_node_ptr(0));
  return port.get_partial_shape().is_static() && !is_input;
}

ov::element::Type inference_precision(const ov::Model& model) {
  const auto& path = OpenVINOEngine::kPrecisionPath;
  const std::string word = model.has_rt_info(path) ? model.get_rt_info<std::string>(path) : "f32";
  TORCH_CHECK_VALUE(word == "f32" || word == "bf16" || word == "f16",
                    "inference_precision of the OpenVINO model must be f32, bf16 or f16, got '", word,
                    "'; pack the model again");
  return ov::element::Type(word);
}

ov::Shape to_shape(at::IntArrayRef sizes) {
  return ov::Shape(sizes.begin(), sizes.end());
}

ov::Tensor borrow_input(const at::Tensor& tensor) {
  const void* const data = tensor.numel() == 0 ? g_no_elements : tensor.const_data_ptr();
  return ov::Tensor(to_element_type(tensor.scalar_type()), to_shape(tensor.sizes()), data);
}

ov::Tensor borrow_output(const at::Tensor& tensor) {
  void* const data = tensor.numel() == 0 ? g_no_elements : tensor.mutable_data_ptr();
  return ov::Tensor(to_element_type(tensor.scalar_type()), to_shape(tensor.sizes()), data);
}

at::Tensor copy_output(const ov::Tensor& tensor, at::ScalarType dtype) {
  const ov::Shape& shape = tensor.get_shape();
  const std::vector<int64_t> sizes(shape.begin(), shape.end());
  at::Tensor copy = at::empty(sizes, at::TensorOptions().dtype(dtype));
  if (copy.numel() != 0) {
    std::memcpy(copy.mutable_data_ptr(), tensor.data(), tensor.get_byte_size());
  }
  return copy;
}

/// OpenVINO computes int64 as int32 on the CPU.
bool fits_int32(const at::Tensor& tensor) {
  const int64_t* const values = tensor.const_data_ptr<int64_t>();
  const int64_t count = tensor.numel();
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) {
    fits &= values[i] == static_cast<int32_t>(values[i]);
  }
  return fits;
}

std::string json_string(const std::string& text) {
  std::ostringstream json;
  json << '"';
  for (const char character : text) {
    if (character == '"' || character == '\\') {
      json << '\\' << character;
    } else if (static_cast<unsigned char>(character) < 0x20) {
      json << "\\u" << std::hex << std::setw(4) << std::setfill('0') << static_cast<int>(character) << std::dec;
    } else {
      json << character;
    }
  }
  json << '"';
  return json.str();
}

void check_fits_int32(const at::Tensor& tensor, const std::string& name) {
  TORCH_CHECK_VALUE(fits_int32(tensor), "input '", name,
                    "' must hold values of 32 bits, because OpenVINO computes int64 as int32 ",
                    "on the CPU, got a larger one; keep the operations that need it in PyTorch");
}

}  // namespace

const std::vector<std::string> OpenVINOEngine::kPrecisionPath = {"torch_trt_ext", "inference_precision"};

OpenVINOEngine::OpenVINOEngine(ov::Core& core, std::shared_ptr<ov::Model> model, at::Tensor plan)
    : core_(core), model_(std::move(model)), plan_(std::move(plan)) {
  Profile profile;
  const std::shared_ptr<const ov::Model> ports = model_;
  for (size_t i = 0; i < ports->inputs().size(); ++i) {
    const ov::Output<const ov::Node> port = ports->input(i);
    inputs_.push_back(to_tensor_info("input", i, port));
    TORCH_CHECK_VALUE(port.get_partial_shape().rank().is_static(), "input '", inputs_.back().name,
                      "' of the OpenVINO model must have a known number of dimensions, got any; call model.reshape()");
    profile.push_back(to_shape_range(port.get_partial_shape()));
  }
  profiles_.push_back(std::move(profile));
  for (size_t i = 0; i < ports->outputs().size(); ++i) {
    const ov::Output<const ov::Node> port = ports->output(i);
    outputs_.push_back(to_tensor_info("output", i, port));
    output_is_bound_.push_back(can_bind_output(port));
  }
  usable_requests();
}

bool OpenVINOEngine::accepts_values(size_t input, const at::Tensor& tensor) const {
  return inputs_[input].dtype != at::kLong || tensor.scalar_type() != at::kLong || fits_int32(tensor.contiguous());
}

std::shared_ptr<InferRequestPool> OpenVINOEngine::usable_requests() {
  const std::lock_guard<std::mutex> lock(requests_mutex_);
  if (requests_ == nullptr || requests_->broken()) {
    // Threads tied to cores would meet on the same ones when several processes serve on one machine.
    requests_ = std::make_shared<InferRequestPool>(
        core_.compile_model(model_, "CPU", ov::hint::inference_precision(inference_precision(*model_)),
                            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1),
                            ov::inference_num_threads(at::get_num_threads()), ov::hint::enable_cpu_pinning(false),
                            ov::enable_profiling(profiling_)),
        model_->is_dynamic(), profiling_);
    ++compilations_;
    if (is_logged(LogLevel::kInfo)) {
      const std::string message = "compiled '" + model_->get_friendly_name() + "' for " +
                                  std::to_string(at::get_num_threads()) + " threads, " + std::to_string(compilations_) +
                                  " times by now";
      log(LogLevel::kInfo, "openvino", message.c_str());
    }
  }
  return requests_;
}

std::vector<at::Tensor> OpenVINOEngine::run(std::vector<at::Tensor> inputs, size_t /*profile*/) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs_[i].dtype == at::kLong) {
      check_fits_int32(inputs[i], inputs_[i].name);
    }
  }
  try {
    for (;;) {
      const std::shared_ptr<InferRequestPool> requests = usable_requests();
      ov::InferRequest request = requests->take();
      for (size_t i = 0; i < inputs.size(); ++i) {
        request.set_input_tensor(i, borrow_input(inputs[i]));
      }
      std::vector<at::Tensor> outputs(outputs_.size());
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (output_is_bound_[i]) {
          outputs[i] = at::empty(outputs_[i].shape, at::TensorOptions().dtype(outputs_[i].dtype));
          request.set_output_tensor(i, borrow_output(outputs[i]));
        }
      }
      if (!requests->infer(request)) {
        // Another thread's call failed in the meantime.
        continue;
      }
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (!output_is_bound_[i]) {
          outputs[i] = copy_output(request.get_output_tensor(i), outputs_[i].dtype);
        }
      }
      if (requests->profiled()) {
        for (const ov::ProfilingInfo& layer : request.get_profiling_info()) {
          if (layer.status == ov::ProfilingInfo::Status::EXECUTED) {
            times_.add(layer.node_name, std::chrono::duration<double, std::milli>(layer.real_time).count());
          }
        }
      }
      requests->give_back(std::move(request));
      return outputs;
    }
  } catch (const ov::Exception& error) {
    TORCH_CHECK(false, "OpenVINO failed to run the engine: ", openvino_message(error));
  }
}

void OpenVINOEngine::set_profiling(bool enabled) {
  const std::lock_guard<std::mutex> lock(requests_mutex_);
  if (profiling_ == enabled) {
    return;
  }
  profiling_ = enabled;
  // Calls that are under way keep theirs to the end.
  requests_ = nullptr;
  if (enabled) {
    times_.clear();
  }
}

std::string OpenVINOEngine::layer_info() const {
  const std::lock_guard<std::mutex> lock(requests_mutex_);
  TORCH_CHECK(requests_ != nullptr, "the engine must have run since set_profiling, it has not; call forward first");
  std::ostringstream text;
  text << R"({"Layers": [)";
  const char* separator = "";
  for (const std::shared_ptr<ov::Node>& node : requests_->runtime_model()->get_ordered_ops()) {
    const auto& facts = node->get_rt_info();
    const auto word = [&facts](const char* key) {
      const auto found = facts.find(key);
      return found == facts.end() ? std::string() : found->second.as<std::string>();
    };
    text << separator << R"({"Name": )" << json_string(node->get_friendly_name()) << R"(, "LayerType": )"
         << json_string(word("layerType")) << R"(, "Precision": )" << json_string(word("runtimePrecision")) << "}";
    separator = ", ";
  }
  text << "]}";
  return text.str();
}

std::map<std::string, int64_t> OpenVINOEngine::counters() const {
  const std::lock_guard<std::mutex> lock(requests_mutex_);
  return {{"compilations", compilations_}};
}

}  // namespace torch_trt_ext
