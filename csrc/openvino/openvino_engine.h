#pragma once

#include <openvino/runtime/core.hpp>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "infer_request_pool.h"
#include "runtime/engine.h"
#include "runtime/layer_times.h"

namespace torch_trt_ext {

/// An OpenVINO model compiled for the CPU.
///
/// It computes in float32 unless the IR's rt_info asks otherwise (kPrecisionPath), on as many threads as torch had when
/// it was made. OpenVINO's CPU plugin computes float64 as float32 and int64 as int32: run() refuses an int64 input that
/// does not fit.
class OpenVINOEngine : public Engine {
 public:
  /// Where the IR's rt_info may hold "f32", "bf16" or "f16": torch_trt_ext/inference_precision.
  static const std::vector<std::string> kPrecisionPath;

  /// `core` must outlive the engine. `plan` holds the model's weights and is kept as long as the engine.
  /// Throws c10::ValueError when a port has no name, a type that torch lacks, or an input has no fixed rank, and
  /// ov::Exception when OpenVINO cannot compile the model.
  OpenVINOEngine(ov::Core& core, std::shared_ptr<ov::Model> model, at::Tensor plan);

  const std::vector<TensorInfo>& inputs() const override { return inputs_; }
  /// An output of unknown rank is listed with an empty shape.
  const std::vector<TensorInfo>& outputs() const override { return outputs_; }
  const std::vector<Profile>& profiles() const override { return profiles_; }
  at::Device device() const override { return at::kCPU; }

  /// Reads inputs where they lie. Outputs of static shape are written where they will stay, others copied once.
  bool accepts_values(size_t input, const at::Tensor& tensor) const override;
  std::vector<at::Tensor> run(std::vector<at::Tensor> inputs, size_t profile) override;

  std::string layer_info() const override;
  /// The model is compiled again for it, at the next run().
  void set_profiling(bool enabled) override;
  std::vector<LayerTime> profile() const override { return times_.list(); }

  /// "compilations": 1, 1 more for each change of set_profiling() that a run() followed, and 1 more for each failed
  /// run() that another followed (see InferRequestPool).
  std::map<std::string, int64_t> counters() const override;

 private:
  std::shared_ptr<InferRequestPool> usable_requests();

  ov::Core& core_;
  std::shared_ptr<ov::Model> model_;
  at::Tensor plan_;
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::vector<Profile> profiles_;
  /// Whether an output is written straight into its tensor, by output.
  std::vector<bool> output_is_bound_;
  mutable std::mutex requests_mutex_;
  std::shared_ptr<InferRequestPool> requests_;
  bool profiling_ = false;
  LayerTimes times_;
  int64_t compilations_ = 0;
};

}  // namespace torch_trt_ext
