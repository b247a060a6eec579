#include "infer_request_pool.h"

namespace torch_trt_ext {

ov::InferRequest InferRequestPool::take() {
  {
    const std::lock_guard<std::mutex> lock(idle_mutex_);
    if (!idle_.empty()) {
      ov::InferRequest request = std::move(idle_.back());
      idle_.pop_back();
      return request;
    }
  }
  return model_.create_infer_request();
}

void InferRequestPool::give_back(ov::InferRequest request) {
  const std::lock_guard<std::mutex> lock(idle_mutex_);
  idle_.push_back(std::move(request));
}

bool InferRequestPool::infer(ov::InferRequest& request) {
  const std::lock_guard<std::mutex> lock(infer_mutex_);
  if (broken_) {
    return false;
  }
  // Stays set when infer() throws.
  broken_ = true;
  if (dynamic_) {
    // Not infer(): where OpenVINO 2026.4.1 has one thread, it drops the errors of models with dynamic shapes, and the
    // outputs are those of an earlier call, or empty.
    request.start_async();
    request.wait();
  } else {
    request.infer();
  }
  broken_ = false;
  return true;
}

bool InferRequestPool::broken() const {
  const std::lock_guard<std::mutex> lock(infer_mutex_);
  return broken_;
}

}  // namespace torch_trt_ext
