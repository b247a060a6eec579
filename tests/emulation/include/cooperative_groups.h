#pragma once

/// Shim: the groups that kernels of the plugins may use, as rendezvous of fibers.

#include "runtime.h"

namespace cooperative_groups {

class thread_block {
 public:
  static void sync(cuda_emulation::Site site = {}) { cuda_emulation::sync_block(false, site); }
  static uint32_t thread_rank() { return cuda_emulation::thread_rank(); }
  static uint32_t size() { return blockDim.x * blockDim.y * blockDim.z; }
  static uint32_t num_threads() { return size(); }
};

class cluster_group {
 public:
  using arrival_token = int;

  static void sync(cuda_emulation::Site site = {}) { cuda_emulation::sync(cuda_emulation::Scope::kCluster, site); }
  static arrival_token barrier_arrive(cuda_emulation::Site site = {}) {
    cuda_emulation::arrive(cuda_emulation::Scope::kCluster, false, site);
    return 0;
  }
  static void barrier_wait(cuda_emulation::Site site = {}) {
    cuda_emulation::wait(cuda_emulation::Scope::kCluster, site);
  }
  static void barrier_wait(arrival_token&&, cuda_emulation::Site site = {}) { barrier_wait(site); }
  static uint32_t block_rank() { return cuda_emulation::cluster_rank(); }
  static uint32_t num_blocks() { return cuda_emulation::cluster_size(); }
  static uint32_t thread_rank() { return block_rank() * thread_block::size() + thread_block::thread_rank(); }
  static uint32_t num_threads() { return num_blocks() * thread_block::size(); }
  template <class T>
  static T* map_shared_rank(T* address, int rank) {
    return static_cast<T*>(cuda_emulation::of_cluster_block(address, static_cast<uint32_t>(rank)));
  }
};

class grid_group {
 public:
  static void sync(cuda_emulation::Site site = {}) { cuda_emulation::sync(cuda_emulation::Scope::kGrid, site); }
  static uint64_t num_blocks() { return uint64_t{gridDim.x} * gridDim.y * gridDim.z; }
  static uint64_t block_rank() { return blockIdx.x + uint64_t{gridDim.x} * (blockIdx.y + gridDim.y * blockIdx.z); }
  static uint64_t thread_rank() { return block_rank() * thread_block::size() + thread_block::thread_rank(); }
  static uint64_t size() { return num_blocks() * thread_block::size(); }
};

inline thread_block this_thread_block() {
  return {};
}
inline cluster_group this_cluster() {
  return {};
}
inline grid_group this_grid() {
  return {};
}

}  // namespace cooperative_groups
