#pragma once

#include <openvino/runtime/compiled_model.hpp>
#include <openvino/runtime/infer_request.hpp>

#include <mutex>
#include <vector>

namespace torch_trt_ext {

/// Infer requests of one compiled model, one for each call that is under way at the same moment.
///
/// Each call reads and fills its own tensors while others do the same; the computations themselves come one after the
/// other, as OpenVINO runs a model that has one stream, each on all threads.
///
/// After an inference that failed the model is broken for good: OpenVINO 2026.4.1 then takes memory of earlier calls,
/// long released, for inputs of the next, and gives wrong answers without an error. Make another pool from another
/// compiled model.
///
/// Thread safety: every method may be called by several threads at once.
class InferRequestPool {
 public:
  /// `dynamic`: whether shapes in the model vary; `profiled`: whether it was compiled to time its layers.
  InferRequestPool(ov::CompiledModel model, bool dynamic, bool profiled)
      : model_(std::move(model)), dynamic_(dynamic), profiled_(profiled) {}
  InferRequestPool(const InferRequestPool&) = delete;
  InferRequestPool& operator=(const InferRequestPool&) = delete;

  /// An idle request, or a new one when all are in use.
  ov::InferRequest take();
  void give_back(ov::InferRequest request);

  /// Runs `request`, which take() gave. Returns false, and does nothing, when the model is broken; throws what OpenVINO
  /// throws, and then it is.
  bool infer(ov::InferRequest& request);

  bool broken() const;
  bool profiled() const { return profiled_; }
  std::shared_ptr<const ov::Model> runtime_model() const { return model_.get_runtime_model(); }

 private:
  ov::CompiledModel model_;
  bool dynamic_;
  bool profiled_;
  mutable std::mutex idle_mutex_;
  std::vector<ov::InferRequest> idle_;
  mutable std::mutex infer_mutex_;
  bool broken_ = false;
};

}  // namespace torch_trt_ext
