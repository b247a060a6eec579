#include "runtime/tensorrt/graph_cache.h"

#include <c10/cuda/CUDAException.h>

#include <algorithm>

namespace torch_trt_ext::tensorrt {

Graph::~Graph() {
  if (handle_ != nullptr) {
    // At process exit the driver may be gone already, and with it the graph.
    (void)cudaGraphExecDestroy(handle_);
  }
}

void Graph::launch(cudaStream_t stream) const {
  C10_CUDA_CHECK(cudaGraphLaunch(handle_, stream));
}

GraphCache::Entry& GraphCache::find(const Addresses& addresses) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&addresses](const Entry& entry) { return entry.addresses == addresses; });
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

void GraphCache::clear() noexcept {
  entries_.clear();
  staged.reset();
  misses = 0;
}

}  // namespace torch_trt_ext::tensorrt
