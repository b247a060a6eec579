#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/io_spec.h"

namespace torch_trt_ext {

/// Joins the caller's view of an engine (IoSpec) with the engine's own, once, and checks every call against both.
///
/// Immutable after construction, so that any thread may use it.
class IoBinding {
 public:
  /// Throws c10::ValueError when `spec` does not name exactly the engine's inputs and some of its outputs.
  IoBinding(const IoSpec& spec, const Engine& engine);

  /// True when `inputs` can go into bind(); never throws for what the caller passed.
  bool accepts(at::TensorList inputs) const;

  /// Checks `inputs` (in the caller's order) and returns them in the engine's order: of the engine's dtypes,
  /// contiguous, with the index of the profile that takes them. The returned tensors own any temporary that this made.
  /// Throws c10::TypeError for a wrong dtype and c10::ValueError for a wrong count, device, rank or range.
  std::vector<at::Tensor> bind(std::vector<at::Tensor> inputs, size_t& profile) const;

  /// The engine's outputs in the caller's order and dtypes.
  std::vector<at::Tensor> unbind(std::vector<at::Tensor> outputs) const;

 private:
  bool accepts_tensor(size_t position, const at::Tensor& tensor) const;
  bool in_profile(const Profile& profile, at::TensorList inputs) const;
  bool find_profile(at::TensorList inputs, size_t& profile) const;
  [[noreturn]] void throw_misfit(at::TensorList inputs) const;
  void check_tensor(size_t position, const at::Tensor& tensor) const;
  [[noreturn]] void throw_out_of_range(at::TensorList inputs) const;

  const Engine& engine_;
  IoSpec spec_;
  /// Position in the caller's list -> index in engine_.inputs(); likewise for outputs.
  std::vector<size_t> input_index_;
  std::vector<size_t> output_index_;
  /// Whether the caller's order is the engine's.
  bool inputs_in_order_ = false;
  bool outputs_in_order_ = false;
  /// Profiles, tightest first, so that a call gets the one that was tuned closest to it.
  std::vector<size_t> profile_order_;
};

}  // namespace torch_trt_ext
