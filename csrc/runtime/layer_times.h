#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/export.h"

namespace torch_trt_ext {

/// Adds up how long each layer of an engine took. Thread safety: every method may be called by several threads at once.
class TORCH_TRT_EXT_API LayerTimes {
 public:
  void add(const std::string& layer, double milliseconds);
  void clear();
  /// In the order in which the layers were first added.
  std::vector<LayerTime> list() const;

 private:
  mutable std::mutex mutex_;
  std::vector<LayerTime> times_;
  /// Places in times_.
  std::map<std::string, size_t> places_;
};

}  // namespace torch_trt_ext
