#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace torch_trt_ext {

/// Runs plans of kind "openvino" (plan_container.h) on the CPU.
class OpenVINOBackend : public Backend {
 public:
  void check_plan(const at::Tensor& plan) const override;
  LoadResult load(const at::Tensor& plan, c10::optional<at::Device> device) override;
  std::map<std::string, std::vector<std::string>> describe_environment() const override;
  std::string explain_difference(const std::map<std::string, std::vector<std::string>>& saved) const override;
};

}  // namespace torch_trt_ext
