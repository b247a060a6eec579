#include "runtime/tensorrt/graph_cache.h"

#include <algorithm>

namespace torch_trt_ext::tensorrt {

GraphCache::Entry::~Entry() {
  if (graph_ != nullptr) {
    // At process exit the driver may be gone already, and with it the graph.
    (void)cudaGraphExecDestroy(graph_);
  }
}

GraphCache::Entry& GraphCache::find(const Addresses& addresses) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&addresses](const Entry& entry) { return entry.addresses_ == addresses; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
  } else {
    if (entries_.size() == kMaxEntries) {
      entries_.pop_back();
    }
    entries_.emplace_front(addresses);
  }
  return entries_.front();
}

}  // namespace torch_trt_ext::tensorrt
