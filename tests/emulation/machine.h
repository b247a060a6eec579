#pragma once

/// What the emulation's own sources share: a launch, its blocks and threads, and how far each has got.

#include <memory>
#include <string>
#include <vector>

#include "runtime.h"

namespace cuda_emulation {

struct Block;
struct Fiber;

/// A rendezvous of all threads that have not ended. Its phase counts how often it came about.
struct Barrier {
  uint32_t live = 0;
  uint32_t arrived = 0;
  uint32_t phase = 0;
  /// Without the phases that order no memory accesses.
  uint32_t ordering_phase = 0;
  bool relaxed = false;
  Site site{nullptr, 0};
  std::vector<Fiber*> waiting;
};

/// How far a thread has got: what tells whether an access of one comes before an access of another.
struct Progress {
  uint32_t block = 0;
  uint32_t warp = 0;
  /// Of the cluster's and of the grid's barrier: phases to come that this thread has arrived at, and phases waited for.
  uint32_t arrived[2] = {0, 0};
  uint32_t waited[2] = {0, 0};
};

struct AsyncCopy {
  void* to;
  const void* from;
  size_t size_bytes;
};

struct Fiber {
  void* stack_pointer;
  char* stack;
  Block* block;
  uint3 index;
  uint32_t thread;
  bool is_done;
  Progress progress;
  /// Phase that it arrived at, and still has to wait for, of the cluster's and of the grid's barrier; -1 for none.
  int64_t pending[2];
  /// What it waits at, for reports; null when it does not.
  const char* waits_at;
  Site site{nullptr, 0};
  // Of a warp operation.
  uint32_t mask;
  uint32_t source;
  uint64_t value;
  WarpOperation operation;
  std::vector<AsyncCopy> copies;
  uint32_t yields;
};

struct Warp {
  uint32_t live;
  uint32_t waiting;
  uint32_t phase;
};

struct Block {
  uint3 index;
  uint32_t number;
  uint32_t cluster_number;
  uint32_t rank;
  /// Blocks that run with it, and its place among them: of its shared memory, too.
  uint32_t place;
  Fiber* fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  /// Threads of this phase of the barrier whose predicate is true, and of the last one.
  uint32_t predicates;
  uint32_t last_predicates;
  Barrier* cluster_barrier;
  bool has_started;
};

/// A part of every block's shared memory.
struct SharedVariable {
  const void* key;
  std::string name;
  size_t offset;
  size_t size_bytes;
};

struct Launch {
  const void* kernel;
  LaunchShape shape;
  const void* call;
  size_t call_bytes;
  void (*body)(const void* call);
  uint32_t number;
  uint32_t threads;
  uint32_t cluster_blocks;
  std::vector<SharedVariable> shared;
  std::vector<Block> blocks;
  Barrier grid_barrier;
  /// Of each block of the grid.
  std::vector<uint8_t> fences;
};

struct Settings {
  uint32_t seed = 0;
  int multiprocessors = 2;
  int capability = 90;
};

inline Settings settings;
/// Null outside of launches.
inline Launch* current_launch = nullptr;
/// Null in the host's code.
inline Fiber* current = nullptr;
/// What fail() said; empty when nothing has failed.
inline std::string failure;

constexpr size_t kStackBytes = 48 * 1024;
constexpr size_t kSharedBytes = 232448;
constexpr size_t kSharedWithoutAsking = 48 * 1024;
constexpr uint32_t kMostBlocksAtOnce = 64;

uint32_t random_below(uint32_t bound);

/// Forgets what the block's place had in shared memory and fills it with nonsense.
void clear_shared(uint32_t place);
/// Checks that nothing was written between the shared variables.
void check_shared_guards(uint32_t place);
/// Checks an access of the running thread. `from` is where the code is.
enum class Access { kRead, kWrite, kAtomic };
void check_access(const void* address, size_t size_bytes, Access access, const void* from);
/// Whether all of it is memory that a kernel may write.
bool is_writable(const void* address, size_t size_bytes);
size_t dynamic_bytes_allowed(const void* kernel);
/// For cudaGetLastError, unless it is success.
cudaError_t keep_error(cudaError_t status);
/// Where the code at `address` is in this library, for addr2line.
std::string place_of(const void* address);

}  // namespace cuda_emulation
