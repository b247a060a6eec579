#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <list>
#include <memory>
#include <vector>

namespace torch_trt_ext::tensorrt {

/// Where one call's inputs, outputs and activation memory are, in this order.
using Addresses = c10::SmallVector<const void*, 8>;

/// An executable CUDA graph, or none.
class Graph {
 public:
  Graph() = default;
  /// Takes ownership.
  explicit Graph(cudaGraphExec_t handle) : handle_(handle) {}
  Graph(Graph&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
  Graph& operator=(Graph&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  /// CUDA keeps a graph that still runs until it is over.
  ~Graph();

  explicit operator bool() const { return handle_ != nullptr; }
  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t handle_ = nullptr;
};

/// A graph with memory of its own, for calls whose addresses never come back: they are copied in and out.
struct StagedGraph {
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> outputs;
  at::Tensor memory;
  Graph graph;
};

/// CUDA graphs of one execution context, all for the shapes that it has: one for each set of addresses that keeps
/// coming back. A graph has addresses built in; torch's caching allocator gives a loop the same ones again and again.
///
/// A replay reads and writes what the call at hand has allocated, since the addresses are equal, so these graphs own no
/// memory. Only the staged one does.
class GraphCache {
 public:
  static constexpr size_t kMaxEntries = 8;

  struct Entry {
    explicit Entry(const Addresses& of) : addresses(of) {}
    Addresses addresses;
    /// Calls that found no graph.
    int calls = 0;
    Graph graph;
  };

  /// The entry for `addresses`, made if there is none; then the least recently used one goes where there are too many.
  /// Valid until the next call of a method.
  Entry& find(const Addresses& addresses);

  /// Calls since the last one that replayed a graph or captured one.
  int misses = 0;
  /// Null until there is one.
  std::unique_ptr<StagedGraph> staged;

  /// Forgets all; for when the context's shapes change. What the staged graph runs must be over.
  void clear() noexcept;

 private:
  /// Most recently used first.
  std::list<Entry> entries_;
};

}  // namespace torch_trt_ext::tensorrt
