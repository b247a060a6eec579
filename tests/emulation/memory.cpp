#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "machine.h"

/// Where this library starts and ends.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start;
extern "C" __attribute__((visibility("hidden"))) char _end;

namespace cuda_emulation {
namespace {

/// Who accessed memory last and how far that thread had got.
struct Stamp {
  uint64_t block : 22;
  uint64_t thread : 10;
  uint64_t launch : 16;
  uint64_t cluster_phase : 16;
  uint64_t block_phase : 24;
  uint64_t warp_phase : 24;
  uint64_t grid_phase : 11;
  uint64_t fences : 3;
  uint64_t is_atomic : 1;
  /// By others as well, at times that are not ordered.
  uint64_t by_many : 1;
};
static_assert(sizeof(Stamp) == 16);

/// Of two bytes of memory, the smallest elements that there are.
struct Cell {
  Stamp write;
  Stamp read;
};
constexpr size_t kCellBytes = 2;

struct Buffer {
  char* begin;
  size_t size_bytes;
  bool writable;
  std::string name;
  /// Null for what nobody may write.
  Cell* cells;
};

std::vector<Buffer> buffers;
/// In an atomic operation, whose own accesses have been checked.
bool is_quiet = false;
uint64_t accesses_of_turn = 0;
const Fiber* turn = nullptr;

constexpr size_t kGuardBytes = 32;
constexpr size_t kArenaBytes = 256 * 1024;
constexpr size_t kCellsOfArena = kArenaBytes / kCellBytes;
constexpr uint32_t kFirstSharedAddress = 1024;

void* reserve(size_t size_bytes) {
  void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::abort();
  }
  return memory;
}

/// Shared memory of all blocks that run at once, and what is known of it.
char* const arenas = static_cast<char*>(reserve(kArenaBytes * kMostBlocksAtOnce));
Cell* const arena_cells = static_cast<Cell*>(reserve(kCellsOfArena * kMostBlocksAtOnce * sizeof(Cell)));

uint8_t nonsense() {
  // Large numbers, or NaN and the largest integers.
  return settings.seed % 2 == 0 ? 0xCD : 0xFF;
}
constexpr uint8_t kGuard = 0xA7;

size_t end_of(const SharedVariable& variable) {
  return variable.offset + variable.size_bytes;
}

void clear_variable(uint32_t place, const SharedVariable& variable) {
  char* const arena = arenas + place * kArenaBytes;
  std::memset(arena + variable.offset, nonsense(), variable.size_bytes);
  std::memset(arena + end_of(variable), kGuard, kGuardBytes);
  const size_t first = place * kCellsOfArena + variable.offset / kCellBytes;
  std::memset(static_cast<void*>(arena_cells + first), 0, (variable.size_bytes / kCellBytes + 1) * sizeof(Cell));
}

Stamp stamp_of(const Fiber& fiber, Access access) {
  Stamp stamp;
  stamp.block = fiber.block->number;
  stamp.thread = fiber.thread;
  stamp.launch = current_launch->number;
  stamp.cluster_phase = fiber.progress.arrived[0];
  stamp.block_phase = fiber.progress.block;
  stamp.warp_phase = fiber.progress.warp;
  stamp.grid_phase = fiber.progress.arrived[1];
  stamp.fences = current_launch->fences[fiber.block->number];
  stamp.is_atomic = access == Access::kAtomic ? 1 : 0;
  stamp.by_many = 0;
  return stamp;
}

/// Whether what `stamp` tells of comes before all that `fiber` does now.
bool comes_before(const Stamp& stamp, const Fiber& fiber) {
  const Block& block = *fiber.block;
  if (stamp.launch != (current_launch->number & 0xFFFF)) {
    return true;
  }
  if (stamp.block == block.number) {
    const bool same_thread = stamp.thread == fiber.thread && stamp.by_many == 0;
    const bool same_warp = stamp.thread / 32 == fiber.thread / 32 && stamp.by_many == 0;
    if (same_thread || stamp.block_phase < fiber.progress.block ||
        (same_warp && stamp.warp_phase < fiber.progress.warp)) {
      return true;
    }
  } else if (stamp.fences != current_launch->fences[stamp.block] && current_launch->fences[block.number] > 0) {
    // Fences are taken at their word: what they order is not followed.
    return true;
  }
  return stamp.grid_phase < fiber.progress.waited[1] ||
         (stamp.block / current_launch->cluster_blocks == block.cluster_number &&
          stamp.cluster_phase < fiber.progress.waited[0]);
}

bool is_race(const Stamp& stamp, const Fiber& fiber, Access access) {
  return !(access == Access::kAtomic && stamp.is_atomic != 0) && !comes_before(stamp, fiber);
}

/// `cells` are those of `what`, in which the access is `offset` bytes from the start.
void check_cells(Cell* cells, size_t offset, size_t size_bytes, Access access, const char* what, const void* from) {
  const Fiber& fiber = *current;
  const Stamp fresh = stamp_of(fiber, access);
  for (size_t index = offset / kCellBytes; index <= (offset + size_bytes - 1) / kCellBytes; ++index) {
    Cell& cell = cells[index];
    const bool races_write = is_race(cell.write, fiber, access);
    if (races_write || (access != Access::kRead && is_race(cell.read, fiber, access))) {
      const Stamp& other = races_write ? cell.write : cell.read;
      fail(
          "race at byte %zu of '%s': thread %u of block %u %s what thread %u of block %u%s %s, and nothing orders "
          "them; "
          "at %s",
          index * kCellBytes, what, fiber.thread, fiber.block->number, access == Access::kRead ? "reads" : "writes",
          static_cast<unsigned>(other.thread), static_cast<unsigned>(other.block),
          other.by_many != 0 ? " and others" : "", races_write ? "writes" : "reads", place_of(from).c_str());
    }
    Stamp& stamp = access == Access::kRead ? cell.read : cell.write;
    const bool by_others = (stamp.thread != fiber.thread || stamp.block != fiber.block->number || stamp.by_many != 0) &&
                           !comes_before(stamp, fiber);
    stamp = fresh;
    stamp.by_many = by_others ? 1 : 0;
  }
}

void check_shared(size_t offset, size_t size_bytes, Access access, const void* from) {
  const uint32_t place = static_cast<uint32_t>(offset / kArenaBytes);
  const size_t in_arena = offset % kArenaBytes;
  Launch& launch = *current_launch;
  const SharedVariable* found = nullptr;
  for (const SharedVariable& variable : launch.shared) {
    if (in_arena >= variable.offset && in_arena + size_bytes <= end_of(variable)) {
      found = &variable;
    }
  }
  if (found == nullptr || place >= launch.blocks.size() ||
      launch.blocks[place].cluster_number != current->block->cluster_number) {
    fail("thread %u of block %u accesses %zu bytes of shared memory that are no variable's, at %s", current->thread,
         current->block->number, size_bytes, place_of(from).c_str());
  }
  const Block& owner = launch.blocks[place];
  if (!owner.has_started || owner.barrier.live == 0) {
    fail("thread %u of block %u accesses shared '%s' of block %u, which %s, at %s", current->thread,
         current->block->number, found->name.c_str(), owner.number,
         owner.has_started ? "has ended" : "may not have started", place_of(from).c_str());
  }
  Cell* const cells = arena_cells + place * kCellsOfArena + found->offset / kCellBytes;
  check_cells(cells, in_arena - found->offset, size_bytes, access, found->name.c_str(), from);
}

Buffer* find_buffer(const char* address) {
  static size_t last = 0;
  if (last < buffers.size() && static_cast<size_t>(address - buffers[last].begin) < buffers[last].size_bytes) {
    return &buffers[last];
  }
  const auto after = std::upper_bound(buffers.begin(), buffers.end(), address,
                                      [](const char* wanted, const Buffer& buffer) { return wanted < buffer.begin; });
  if (after == buffers.begin()) {
    return nullptr;
  }
  last = static_cast<size_t>(after - buffers.begin()) - 1;
  return &buffers[last];
}

}  // namespace

std::string place_of(const void* address) {
  char text[64];
  std::snprintf(text, sizeof(text), "library+0x%zx",
                static_cast<size_t>(static_cast<const char*>(address) - &__ehdr_start));
  return text;
}

void clear_shared(uint32_t place) {
  for (const SharedVariable& variable : current_launch->shared) {
    clear_variable(place, variable);
  }
}

void check_shared_guards(uint32_t place) {
  for (const SharedVariable& variable : current_launch->shared) {
    const char* const guard = arenas + place * kArenaBytes + end_of(variable);
    if (std::any_of(guard, guard + kGuardBytes, [](char byte) { return static_cast<uint8_t>(byte) != kGuard; })) {
      fail("something was written past the end of shared '%s'", variable.name.c_str());
    }
  }
}

void* shared_variable(const void* key, const char* name, size_t size_bytes, size_t alignment) {
  std::vector<SharedVariable>& variables = current_launch->shared;
  char* const arena = arenas + current->block->place * kArenaBytes;
  for (const SharedVariable& variable : variables) {
    if (variable.key == key) {
      return arena + variable.offset;
    }
  }
  const size_t end = variables.empty() ? 0 : end_of(variables.back()) + kGuardBytes;
  variables.push_back({key, name, (end + alignment - 1) / alignment * alignment, size_bytes});
  size_t total = 0;
  for (const SharedVariable& variable : variables) {
    total += variable.key == current_launch ? 0 : variable.size_bytes;
  }
  if (total > kSharedWithoutAsking || total + current_launch->shape.dynamic_bytes > kSharedBytes) {
    fail("%zu bytes of shared variables are more than a block can have", total);
  }
  for (const Block& block : current_launch->blocks) {
    clear_variable(block.place, variables.back());
  }
  return arena + variables.back().offset;
}

void* dynamic_shared(const char* name) {
  return shared_variable(current_launch, name, current_launch->shape.dynamic_bytes, 128);
}

void* of_cluster_block(const void* address, uint32_t rank) {
  const size_t offset = static_cast<size_t>(static_cast<const char*>(address) - arenas);
  if (rank >= current_launch->cluster_blocks || offset >= kArenaBytes * kMostBlocksAtOnce) {
    fail("no shared memory of block %u of %u of the cluster", rank, current_launch->cluster_blocks);
  }
  const uint32_t place = current->block->place - current->block->rank + rank;
  return arenas + place * kArenaBytes + offset % kArenaBytes;
}

uint32_t shared_address(const void* address) {
  const size_t offset = static_cast<size_t>(static_cast<const char*>(address) - arenas);
  if (offset / kArenaBytes != current->block->place) {
    fail("an address that is not in the block's shared memory is converted to one");
  }
  return static_cast<uint32_t>(offset % kArenaBytes) + kFirstSharedAddress;
}

void copy_async(uint32_t shared_to, uint64_t from, size_t size_bytes) {
  char* const to = arenas + current->block->place * kArenaBytes + (shared_to - kFirstSharedAddress);
  if (from % size_bytes != 0 || shared_to % size_bytes != 0) {
    fail("an asynchronous copy of %zu bytes is not aligned", size_bytes);
  }
  current->copies.push_back({to, reinterpret_cast<const void*>(from), size_bytes});
}

void wait_for_copies() {
  for (const AsyncCopy& copy : current->copies) {
    check_access(copy.from, copy.size_bytes, Access::kRead, __builtin_return_address(0));
    check_access(copy.to, copy.size_bytes, Access::kWrite, __builtin_return_address(0));
    std::memcpy(copy.to, copy.from, copy.size_bytes);
  }
  current->copies.clear();
}

void begin_atomic(void* address, size_t size_bytes) {
  yield();
  check_access(address, size_bytes, Access::kAtomic, __builtin_return_address(0));
  is_quiet = true;
}

void end_atomic() {
  is_quiet = false;
}

void fence() {
  uint8_t& fences = current_launch->fences[current->block->number];
  // As many as a stamp tells apart, and not back to none.
  fences = fences == 7 ? 1 : fences + 1;
  yield();
}

void check_access(const void* address, size_t size_bytes, Access access, const void* from) {
  if (current == nullptr || is_quiet) {
    return;
  }
  const char* const begin = static_cast<const char*>(address);
  if (static_cast<size_t>(begin - current->stack) < kStackBytes) {
    return;
  }
  if (turn != current) {
    turn = current;
    accesses_of_turn = 0;
  }
  if (++accesses_of_turn > 500'000'000) {
    fail("thread %u of block %u does not end, at %s", current->thread, current->block->number, place_of(from).c_str());
  }
  const size_t in_shared = static_cast<size_t>(begin - arenas);
  if (in_shared < kArenaBytes * kMostBlocksAtOnce) {
    check_shared(in_shared, size_bytes, access, from);
    return;
  }
  Buffer* const buffer = find_buffer(begin);
  const size_t offset = buffer == nullptr ? 0 : static_cast<size_t>(begin - buffer->begin);
  if (buffer != nullptr && offset + size_bytes <= buffer->size_bytes) {
    if (access != Access::kRead && !buffer->writable) {
      fail("thread %u of block %u writes to byte %zu of '%s', which is an input, at %s", current->thread,
           current->block->number, offset, buffer->name.c_str(), place_of(from).c_str());
    }
    if (buffer->cells != nullptr) {
      check_cells(buffer->cells, offset, size_bytes, access, buffer->name.c_str(), from);
    }
    return;
  }
  const bool is_argument =
      static_cast<size_t>(begin - static_cast<const char*>(current_launch->call)) < current_launch->call_bytes;
  const bool is_constant = begin >= &__ehdr_start && begin < &_end;
  if (access != Access::kRead || !(is_argument || is_constant)) {
    std::string near;
    for (const Buffer& other : buffers) {
      const int64_t before = other.begin - begin;
      const int64_t past = -before - static_cast<int64_t>(other.size_bytes);
      // Guards are as long.
      if (past + static_cast<int64_t>(size_bytes) > 0 && past < 256) {
        near = ", " + std::to_string(past) + " bytes past the end of '" + other.name + "'";
      } else if (before > 0 && before <= 256) {
        near = ", " + std::to_string(before) + " bytes before the start of '" + other.name + "'";
      }
    }
    fail("thread %u of block %u %s %zu bytes outside of every buffer%s, at %s", current->thread, current->block->number,
         access == Access::kRead ? "reads" : "writes", size_bytes, near.c_str(), place_of(from).c_str());
  }
}

bool is_writable(const void* address, size_t size_bytes) {
  const char* const begin = static_cast<const char*>(address);
  const Buffer* const buffer = find_buffer(begin);
  return buffer != nullptr && buffer->writable && begin + size_bytes <= buffer->begin + buffer->size_bytes;
}

}  // namespace cuda_emulation

using cuda_emulation::Access;
using cuda_emulation::Buffer;
using cuda_emulation::buffers;
using cuda_emulation::Cell;
using cuda_emulation::kCellBytes;

#define EXPORT extern "C" __attribute__((visibility("default")))

/// Memory of the device that kernels may access from now on.
EXPORT void emulation_add_buffer(const char* name, void* begin, size_t size_bytes, int writable) {
  // Pages that are not touched cost nothing.
  Cell* cells = writable != 0 ? static_cast<Cell*>(std::calloc(size_bytes / kCellBytes + 1, sizeof(Cell))) : nullptr;
  const Buffer buffer = {static_cast<char*>(begin), size_bytes, writable != 0, name, cells};
  buffers.insert(std::upper_bound(buffers.begin(), buffers.end(), buffer,
                                  [](const Buffer& a, const Buffer& b) { return a.begin < b.begin; }),
                 buffer);
}

EXPORT void emulation_clear_buffers() {
  for (const Buffer& buffer : buffers) {
    std::free(buffer.cells);
  }
  buffers.clear();
}

namespace {

/// An access that need not be aligned as a whole, in the largest pieces that are.
void check_pieces(void* address, size_t size_bytes, Access access, const void* from) {
  char* next = static_cast<char*>(address);
  while (size_bytes > 0) {
    size_t piece = 16;
    while (reinterpret_cast<uintptr_t>(next) % piece != 0 || piece > size_bytes) {
      piece /= 2;
    }
    cuda_emulation::check_access(next, piece, access, from);
    next += piece;
    size_bytes -= piece;
  }
}

}  // namespace

// What g++ -fsanitize=thread calls; the library that it is meant for is not linked.
#define READ_WRITE(size)                                                                      \
  extern "C" void __tsan_read##size(void* address) {                                          \
    cuda_emulation::check_access(address, size, Access::kRead, __builtin_return_address(0));  \
  }                                                                                           \
  extern "C" void __tsan_write##size(void* address) {                                         \
    cuda_emulation::check_access(address, size, Access::kWrite, __builtin_return_address(0)); \
  }                                                                                           \
  extern "C" void __tsan_unaligned_read##size(void* address) {                                \
    check_pieces(address, size, Access::kRead, __builtin_return_address(0));                  \
  }                                                                                           \
  extern "C" void __tsan_unaligned_write##size(void* address) {                               \
    check_pieces(address, size, Access::kWrite, __builtin_return_address(0));                 \
  }
READ_WRITE(1)
READ_WRITE(2)
READ_WRITE(4)
READ_WRITE(8)
READ_WRITE(16)
extern "C" void __tsan_read_range(void* address, size_t size_bytes) {
  check_pieces(address, size_bytes, Access::kRead, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, size_t size_bytes) {
  check_pieces(address, size_bytes, Access::kWrite, __builtin_return_address(0));
}

/// What g++ -fsanitize=undefined calls, with where the mistake is first of all that it tells.
struct Place {
  const char* file;
  uint32_t line;
  uint32_t column;
};
#define UNDEFINED(name, what, ...)                                                                      \
  extern "C" void __ubsan_handle_##name(const Place* place, ##__VA_ARGS__) {                            \
    if (cuda_emulation::current != nullptr) {                                                           \
      cuda_emulation::fail("thread %u of block %u " what ", at %s:%u", cuda_emulation::current->thread, \
                           cuda_emulation::current->block->number, place->file, place->line);           \
    }                                                                                                   \
  }
UNDEFINED(type_mismatch_v1, "accesses an address that is not aligned for its type", void*)
UNDEFINED(out_of_bounds, "is past an array", void*)
UNDEFINED(shift_out_of_bounds, "shifts by more bits than there are", void*, void*)
UNDEFINED(divrem_overflow, "divides by zero", void*, void*)

extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

/// The host's atomics.
#define ATOMICS(bits)                                                                              \
  extern "C" uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* a, int) {    \
    return __atomic_load_n(a, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  extern "C" void __tsan_atomic##bits##_store(volatile uint##bits##_t* a, uint##bits##_t v, int) { \
    __atomic_store_n(a, v, __ATOMIC_SEQ_CST);                                                      \
  }
ATOMICS(8)
ATOMICS(32)
ATOMICS(64)
