#include "runtime/layer_times.h"

namespace torch_trt_ext {

void LayerTimes::add(const std::string& layer, double milliseconds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto [place, is_new] = places_.emplace(layer, times_.size());
  if (is_new) {
    times_.push_back({layer, 0, 0.0});
  }
  LayerTime& time = times_[place->second];
  ++time.calls;
  time.milliseconds += milliseconds;
}

void LayerTimes::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  times_.clear();
  places_.clear();
}

std::vector<LayerTime> LayerTimes::list() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return times_;
}

}  // namespace torch_trt_ext
