#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <list>
#include <vector>

namespace torch_trt_ext::tensorrt {

/// Where one call's inputs, outputs and activation memory are, in this order.
using Addresses = std::vector<const void*>;

/// CUDA graphs of one execution context, all for the shapes that it has: one for each set of addresses that keeps
/// coming back. A graph has addresses built in; torch's caching allocator gives a loop the same ones again and again.
///
/// A replay reads and writes what the call at hand has allocated, since the addresses are equal, so graphs own no
/// memory.
class GraphCache {
 public:
  static constexpr size_t kMaxEntries = 8;
  /// A capture costs as much as hundreds of calls, so addresses must have come back before there is one.
  static constexpr int kCallsBeforeCapture = 2;

  class Entry {
   public:
    explicit Entry(const Addresses& addresses) : addresses_(addresses) {}
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    ~Entry();

    /// Null until set_graph.
    cudaGraphExec_t graph() const { return graph_; }
    /// Takes ownership.
    void set_graph(cudaGraphExec_t graph) { graph_ = graph; }
    /// Counts a call that found no graph; true when the next thing to do is to capture one.
    bool is_due() { return ++calls_ > kCallsBeforeCapture; }

   private:
    friend class GraphCache;
    Addresses addresses_;
    int calls_ = 0;
    cudaGraphExec_t graph_ = nullptr;
  };

  /// The entry for `addresses`, made if there is none; then the least recently used one goes where there are too many.
  /// Valid until the next call of a method.
  Entry& find(const Addresses& addresses);

  /// Forgets all; for when the context's shapes change. CUDA keeps a graph that still runs until it is over.
  void clear() noexcept { entries_.clear(); }

 private:
  /// Most recently used first.
  std::list<Entry> entries_;
};

/// Records what `enqueue(stream)` puts on a stream, without running it, in a graph that the caller owns.
///
/// `stream` must hold no other work. Null when that is not possible, with the reason in `status`; cudaSuccess there
/// means that `enqueue` returned false.
template <class Enqueue>
cudaGraphExec_t capture_graph(cudaStream_t stream, const Enqueue& enqueue, cudaError_t& status) {
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t graph = nullptr;
  // Other threads may go on allocating memory meanwhile.
  status = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (status == cudaSuccess) {
    const bool enqueued = enqueue(stream);
    status = cudaStreamEndCapture(stream, &recorded);
    if (status == cudaSuccess && enqueued) {
      status = cudaGraphInstantiate(&graph, recorded, 0);
    }
    if (recorded != nullptr) {
      (void)cudaGraphDestroy(recorded);
    }
  }
  if (graph == nullptr) {
    // The failure is reported here and must not be found by whoever asks CUDA next.
    (void)cudaGetLastError();
  }
  return graph;
}

}  // namespace torch_trt_ext::tensorrt
