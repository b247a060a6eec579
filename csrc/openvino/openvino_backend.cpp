#include "openvino_backend.h"

#include <c10/util/Exception.h>

#include <openvino/core/version.hpp>
#include <openvino/runtime/core.hpp>

#include <cstdint>
#include <memory>

#include "openvino_engine.h"
#include "openvino_error.h"
#include "ops/retinanet_decode.h"
#include "ops/retinanet_nms.h"
#include "plan_container.h"

namespace torch_trt_ext {
namespace {

constexpr char kVersionFact[] = "openvino_version";

/// Made when the first engine is, and never destroyed: engines held by static objects may outlive this library's.
ov::Core& shared_core() {
  static ov::Core* const core = [] {
    auto made = std::make_unique<ov::Core>();
    made->add_extension<ops::RetinaNetDecode>();
    made->add_extension<ops::RetinaNetNMS>();
    return made.release();
  }();
  return *core;
}

std::string openvino_version() {
  return ov::get_openvino_version().buildNumber;
}

PlanView view_plan(const at::Tensor& plan) {
  TORCH_INTERNAL_ASSERT(plan.is_cpu() && plan.scalar_type() == at::kByte && plan.is_contiguous());
  return parse_plan(plan.numel() == 0 ? nullptr : plan.const_data_ptr<uint8_t>(), static_cast<size_t>(plan.numel()));
}

/// `plan`, or a copy of it at an address from which OpenVINO reads weights without copying them itself.
at::Tensor align_plan(const at::Tensor& plan) {
  const auto address = reinterpret_cast<uintptr_t>(plan.const_data_ptr());
  return address % kPlanAlignment == 0 ? plan : plan.clone();
}

LoadResult refuse(const std::string& message) {
  LoadResult result;
  result.misfit = std::make_unique<Misfit>(Misfit{Misfit::Kind::kRefused, message});
  return result;
}

/// OpenVINO has no error type of its own for an operation that it does not know.
bool is_unknown_operation(const std::string& message) {
  return message.find("unsupported opset") != std::string::npos;
}

}  // namespace

void OpenVINOBackend::check_plan(const at::Tensor& plan) const {
  view_plan(plan);
}

LoadResult OpenVINOBackend::load(const at::Tensor& plan, c10::optional<at::Device> /*device*/) {
  const at::Tensor aligned = align_plan(plan);
  const PlanView view = view_plan(aligned);
  ov::Tensor weights;
  if (view.weights_bytes > 0) {
    weights = ov::Tensor(ov::element::u8, {view.weights_bytes}, static_cast<const void*>(view.weights));
  }

  std::shared_ptr<ov::Model> model;
  try {
    model = shared_core().read_model(std::string(view.xml, view.xml_bytes), weights);
  } catch (const std::exception& error) {
    const std::string message = openvino_message(error);
    if (is_unknown_operation(message)) {
      return refuse("OpenVINO " + openvino_version() + " does not know an operation of this engine: " + message +
                    "; install the OpenVINO it was made with, or build it again");
    }
    TORCH_CHECK_VALUE(false, "plan must hold an OpenVINO IR that OpenVINO ", openvino_version(),
                      " can read, got: ", message, "; it is damaged, copy or build it again");
  }

  LoadResult result;
  try {
    result.engine = std::make_unique<OpenVINOEngine>(shared_core(), model, aligned);
  } catch (const ov::Exception& error) {
    return refuse("OpenVINO " + openvino_version() +
                  " cannot compile this engine for this CPU: " + openvino_message(error) + "; build it again here");
  }
  return result;
}

std::map<std::string, std::vector<std::string>> OpenVINOBackend::describe_environment() const {
  return {{kVersionFact, {openvino_version()}}};
}

std::string OpenVINOBackend::explain_difference(const std::map<std::string, std::vector<std::string>>& saved) const {
  const auto fact = saved.find(kVersionFact);
  if (fact == saved.end() || fact->second.empty() || fact->second.front() == openvino_version()) {
    return "";
  }
  return "it was made with OpenVINO " + fact->second.front() + ", here is " + openvino_version();
}

namespace {

[[maybe_unused]] const bool g_registered = [] {
  register_backend("openvino", std::make_unique<OpenVINOBackend>());
  return true;
}();

}  // namespace
}  // namespace torch_trt_ext
