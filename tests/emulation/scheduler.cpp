#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <new>

#include "machine.h"

/// Saves what a call must preserve on the stack that runs, and goes on where another one stopped.
extern "C" void emulation_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch, .-emulation_switch
)");
#else
#error "the emulation switches stacks on x86-64 only"
#endif

namespace cuda_emulation {
namespace {

/// Who runs next among those that can: in their order, in the opposite one, anyone, or the last one that could, which
/// lets a warp and a block get as far as they can before others start.
enum class Order { kForward, kBackward, kRandom, kLatest };

uint64_t random_state = 1;
std::vector<Fiber> fibers;
std::vector<Fiber*> ready;
size_t next_ready = 0;
void* scheduler_stack = nullptr;
char* stacks = nullptr;
/// Since the last rendezvous, or end of a thread.
uint32_t yields_in_vain = 0;

/// Stacks must not all start at the same place of a page: they would share a few lines of the cache.
constexpr size_t kStackDistance = kStackBytes + 576;
constexpr uint32_t kCanary = 0x57ACCED0;

Order order() {
  return settings.seed == 0       ? Order::kForward
         : settings.seed == 1     ? Order::kBackward
         : settings.seed % 2 == 0 ? Order::kRandom
                                  : Order::kLatest;
}

void leave() {
  emulation_switch(&current->stack_pointer, scheduler_stack);
}

/// The running thread waits until somebody makes it ready.
void suspend(const char* what, Site site) {
  current->waits_at = what;
  current->site = site;
  leave();
  current->waits_at = nullptr;
}

void complete(Barrier& barrier) {
  yields_in_vain = 0;
  ++barrier.phase;
  barrier.ordering_phase += barrier.relaxed ? 0 : 1;
  barrier.arrived = 0;
  barrier.relaxed = false;
  ready.insert(ready.end(), barrier.waiting.begin(), barrier.waiting.end());
  barrier.waiting.clear();
}

/// Returns whether the running thread was the last.
bool arrive_at(Barrier& barrier, const char* what, bool relaxed, Site site) {
  if (barrier.arrived == 0) {
    barrier.site = site;
  } else if (barrier.site.line != site.line || std::strcmp(barrier.site.file, site.file) != 0) {
    fail("threads are at different %ss: some at %s:%d, thread %u of block %u at %s:%d", what, barrier.site.file,
         barrier.site.line, current->thread, current->block->number, site.file, site.line);
  }
  barrier.relaxed = barrier.relaxed || relaxed;
  return ++barrier.arrived == barrier.live;
}

void end_thread() {
  Block& block = *current->block;
  if (!current->copies.empty()) {
    fail("thread %u of block %u ends before its asynchronous copies", current->thread, block.number);
  }
  uint32_t canary;
  std::memcpy(&canary, current->stack, sizeof(canary));
  if (canary != kCanary) {
    fail("a thread's stack is larger than the emulation's %zu bytes", kStackBytes);
  }
  current->is_done = true;
  yields_in_vain = 0;
  Warp& warp = block.warps[current->thread / 32];
  warp.live &= ~(1U << current->thread % 32);
  for (Barrier* barrier : {&block.barrier, block.cluster_barrier}) {
    if (--barrier->live > 0 && barrier->arrived == barrier->live) {
      if (barrier == &block.barrier) {
        block.last_predicates = std::exchange(block.predicates, 0);
      }
      complete(*barrier);
    }
  }
  if (block.barrier.live == 0) {
    check_shared_guards(block.place);
    // Nobody may read a block's memory once it has ended.
    clear_shared(block.place);
  }
}

void run_thread() {
  Block& block = *current->block;
  if (!block.has_started) {
    block.has_started = true;
    clear_shared(block.place);
  }
  current_launch->body(current_launch->call);
  end_thread();
  leave();
}

void start_fiber(Fiber& fiber, Block& block, uint32_t thread, size_t number) {
  std::vector<AsyncCopy> copies = std::move(fiber.copies);
  copies.clear();
  fiber = Fiber{};
  fiber.copies = std::move(copies);
  const dim3& shape = current_launch->shape.block;
  fiber.block = &block;
  fiber.thread = thread;
  fiber.index = {thread % shape.x, thread / shape.x % shape.y, thread / (shape.x * shape.y)};
  fiber.pending[0] = fiber.pending[1] = -1;
  fiber.stack = stacks + number * kStackDistance;
  std::memcpy(fiber.stack, &kCanary, sizeof(kCanary));
  // As after a call, of which run_thread never returns.
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 2;
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&run_thread);
  fiber.stack_pointer = top - 6;
}

void start_block(Block& block, uint32_t number, uint32_t place, Barrier* cluster_barrier) {
  const Launch& launch = *current_launch;
  const dim3& grid = launch.shape.grid;
  const dim3& cluster = launch.shape.cluster;
  block.barrier = {};
  block.barrier.live = launch.threads;
  block.predicates = block.last_predicates = 0;
  block.has_started = false;
  block.place = place;
  block.cluster_barrier = cluster_barrier;
  block.number = number;
  // Blocks are numbered by clusters, so that one's are next to each other.
  block.cluster_number = number / launch.cluster_blocks;
  block.rank = number % launch.cluster_blocks;
  const dim3 clusters(grid.x / cluster.x, grid.y / cluster.y, grid.z / cluster.z);
  const uint32_t c = block.cluster_number;
  block.index = {c % clusters.x * cluster.x + block.rank % cluster.x,
                 c / clusters.x % clusters.y * cluster.y + block.rank / cluster.x % cluster.y,
                 c / (clusters.x * clusters.y) * cluster.z + block.rank / (cluster.x * cluster.y)};
  block.warps.assign((launch.threads + 31) / 32, Warp{0, 0, 0});
  block.fibers = &fibers[size_t{place} * launch.threads];
  for (uint32_t thread = 0; thread < launch.threads; ++thread) {
    block.warps[thread / 32].live |= 1U << thread % 32;
    start_fiber(block.fibers[thread], block, thread, size_t{place} * launch.threads + thread);
    ready.push_back(&block.fibers[thread]);
  }
}

void report_deadlock() {
  std::map<std::string, std::pair<uint32_t, std::string>> waiting;
  uint32_t ended = 0;
  for (const Block& block : current_launch->blocks) {
    for (uint32_t thread = 0; thread < current_launch->threads; ++thread) {
      const Fiber& fiber = block.fibers[thread];
      if (fiber.is_done) {
        ++ended;
        continue;
      }
      auto& [count, first] =
          waiting[std::string(fiber.waits_at) + " at " + fiber.site.file + ":" + std::to_string(fiber.site.line)];
      if (count++ == 0) {
        first = "thread " + std::to_string(thread) + " of block " + std::to_string(block.number);
      }
    }
  }
  failure = "deadlock: ";
  for (const auto& [where, who] : waiting) {
    failure += std::to_string(who.first) + " threads wait for a " + where + ", the first is " + who.second + "; ";
  }
  failure += std::to_string(ended) + " threads have ended";
}

Fiber* take_ready() {
  if (order() == Order::kForward || order() == Order::kBackward) {
    Fiber* fiber = ready[next_ready++];
    if (next_ready == ready.size()) {
      ready.clear();
      next_ready = 0;
    }
    return fiber;
  }
  if (order() == Order::kRandom) {
    std::swap(ready[random_below(static_cast<uint32_t>(ready.size()))], ready.back());
  }
  Fiber* fiber = ready.back();
  ready.pop_back();
  return fiber;
}

/// Runs blocks that are on the device at once, until all have ended.
void run_blocks(uint32_t first, uint32_t count) {
  Launch& launch = *current_launch;
  ready.clear();
  next_ready = 0;
  launch.grid_barrier = {};
  launch.grid_barrier.live = count * launch.threads;
  std::vector<Barrier> cluster_barriers(count / launch.cluster_blocks);
  for (uint32_t place = 0; place < count; ++place) {
    Barrier& cluster_barrier = cluster_barriers[place / launch.cluster_blocks];
    cluster_barrier.live = launch.cluster_blocks * launch.threads;
    start_block(launch.blocks[place], first + place, place, &cluster_barrier);
  }
  if (order() == Order::kBackward) {
    std::reverse(ready.begin(), ready.end());
  } else if (order() == Order::kLatest) {
    // One block after the other as far as it gets, and so its warps.
    std::vector<uint32_t> ranks(size_t{count} * 33);
    std::generate(ranks.begin(), ranks.end(), [] { return random_below(UINT32_MAX); });
    const auto rank = [&](const Fiber* fiber) {
      const uint32_t* const of_block = &ranks[size_t{fiber->block->place} * 33];
      return std::make_tuple(of_block[0], fiber->block->place, of_block[1 + fiber->thread / 32], fiber->thread);
    };
    std::sort(ready.begin(), ready.end(), [&](const Fiber* a, const Fiber* b) { return rank(a) < rank(b); });
  }
  while (!ready.empty() && failure.empty()) {
    current = take_ready();
    threadIdx = current->index;
    blockIdx = current->block->index;
    emulation_switch(&scheduler_stack, current->stack_pointer);
    current = nullptr;
  }
  if (failure.empty() &&
      std::any_of(launch.blocks.begin(), launch.blocks.end(), [](const Block& b) { return b.barrier.live > 0; })) {
    report_deadlock();
  }
}

}  // namespace

uint32_t random_below(uint32_t bound) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return static_cast<uint32_t>((random_state >> 32) * bound >> 32);
}

void fail(const char* format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  if (failure.empty()) {
    failure = message;
  }
  // Nobody runs this thread again; what is on its stack is forgotten.
  leave();
  __builtin_unreachable();
}

void yield() {
  if (current == nullptr) {
    return;
  }
  if (++yields_in_vain > 5'000'000) {
    fail("thread %u of block %u waits in a loop for what does not come", current->thread, current->block->number);
  }
  // Often where the order is any; else only so that nobody waits in vain.
  const bool any = order() == Order::kRandom || order() == Order::kLatest;
  if (any ? random_below(16) != 0 : ++current->yields % 1024 != 0) {
    return;
  }
  if (order() == Order::kLatest) {
    ready.insert(ready.begin(), current);
  } else {
    ready.push_back(current);
  }
  leave();
}

uint32_t sync_block(bool predicate, Site site) {
  Block& block = *current->block;
  block.predicates += predicate ? 1 : 0;
  if (arrive_at(block.barrier, "block barrier", false, site)) {
    block.last_predicates = std::exchange(block.predicates, 0);
    complete(block.barrier);
  } else {
    block.barrier.waiting.push_back(current);
    suspend("block barrier", site);
  }
  current->progress.block = block.barrier.phase;
  return block.last_predicates;
}

void arrive(Scope scope, bool relaxed, Site site) {
  const int which = scope == Scope::kCluster ? 0 : 1;
  if (scope == Scope::kGrid && !current_launch->shape.is_cooperative) {
    fail("grid barrier at %s:%d in a launch that is not cooperative", site.file, site.line);
  }
  if (current->pending[which] >= 0) {
    fail("thread %u of block %u arrives twice at a barrier before it waits, at %s:%d", current->thread,
         current->block->number, site.file, site.line);
  }
  Barrier& barrier = scope == Scope::kCluster ? *current->block->cluster_barrier : current_launch->grid_barrier;
  current->pending[which] = barrier.phase;
  current->progress.arrived[which] = barrier.ordering_phase + (relaxed ? 0 : 1);
  if (arrive_at(barrier, scope == Scope::kCluster ? "cluster barrier" : "grid barrier", relaxed, site)) {
    complete(barrier);
  }
}

void wait(Scope scope, Site site) {
  const int which = scope == Scope::kCluster ? 0 : 1;
  Barrier& barrier = scope == Scope::kCluster ? *current->block->cluster_barrier : current_launch->grid_barrier;
  if (current->pending[which] < 0) {
    fail("thread %u of block %u waits for a barrier that it has not arrived at, at %s:%d", current->thread,
         current->block->number, site.file, site.line);
  }
  if (barrier.phase == current->pending[which]) {
    barrier.waiting.push_back(current);
    suspend(scope == Scope::kCluster ? "cluster barrier" : "grid barrier", site);
  }
  current->pending[which] = -1;
  current->progress.waited[which] = barrier.ordering_phase;
}

uint64_t exchange(uint32_t mask, uint64_t value, uint32_t source, WarpOperation operation, Site site) {
  Fiber* const self = current;
  Block& block = *self->block;
  Warp& warp = block.warps[self->thread / 32];
  const uint32_t lane = self->thread % 32;
  if ((mask >> lane & 1) == 0 || (mask & ~warp.live) != 0) {
    fail("lane %u of warp %u of block %u: mask 0x%x at %s:%d %s", lane, self->thread / 32, block.number, mask,
         site.file, site.line, (mask >> lane & 1) == 0 ? "does not have it" : "has lanes that have ended");
  }
  self->mask = mask;
  self->value = value;
  self->source = source;
  self->operation = operation;
  self->site = site;
  warp.waiting |= 1U << lane;
  if ((warp.waiting & mask) != mask) {
    suspend("warp operation", site);
    return self->value;
  }
  Fiber* const lanes = block.fibers + self->thread / 32 * 32;
  WarpExchange all = {};
  all.mask = mask;
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    const uint32_t other = static_cast<uint32_t>(__builtin_ctz(left));
    const Fiber& fiber = lanes[other];
    if (fiber.mask != mask || fiber.operation != operation || fiber.site.line != site.line) {
      fail("warp %u of block %u: lane %u at %s:%d with mask 0x%x, lane %u at %s:%d with mask 0x%x", self->thread / 32,
           block.number, lane, site.file, site.line, mask, other, fiber.site.file, fiber.site.line, fiber.mask);
    }
    all.values[other] = fiber.value;
    all.sources[other] = fiber.source;
  }
  operation(all);
  yields_in_vain = 0;
  warp.waiting &= ~mask;
  ++warp.phase;
  for (uint32_t left = mask; left != 0; left &= left - 1) {
    const uint32_t other = static_cast<uint32_t>(__builtin_ctz(left));
    lanes[other].value = all.results[other];
    lanes[other].progress.warp = warp.phase;
    if (other != lane) {
      ready.push_back(&lanes[other]);
    }
  }
  return self->value;
}

uint32_t lane_index() {
  return current->thread % 32;
}

uint32_t thread_rank() {
  return current->thread;
}

void require_launch_bounds(uint32_t threads, ...) {
  if (current_launch->threads > threads) {
    fail("launched with %u threads a block, more than __launch_bounds__ says: %u", current_launch->threads, threads);
  }
}

uint32_t cluster_size() {
  return current_launch->cluster_blocks;
}

uint32_t cluster_rank() {
  return current->block->rank;
}

cudaError_t run(const void* kernel, const LaunchShape& shape, const void* call, size_t call_bytes,
                void (*body)(const void* call)) {
  const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  const uint64_t threads = uint64_t{shape.block.x} * shape.block.y * shape.block.z;
  const uint32_t cluster_blocks = shape.cluster.x * shape.cluster.y * shape.cluster.z;
  static uint32_t launches = 0;
  if (blocks == 0 || blocks > INT32_MAX || threads == 0 || threads > 1024 || shape.grid.y > 65535 ||
      shape.grid.z > 65535 || shape.dynamic_bytes > dynamic_bytes_allowed(kernel) || cluster_blocks == 0 ||
      shape.grid.x % shape.cluster.x != 0 || shape.grid.y % shape.cluster.y != 0 ||
      shape.grid.z % shape.cluster.z != 0 || (cluster_blocks > 1 && settings.capability < 90) || cluster_blocks > 8) {
    return keep_error(cudaErrorInvalidConfiguration);
  }
  const uint32_t at_once = shape.is_cooperative ? static_cast<uint32_t>(blocks) : cluster_blocks;
  if (at_once > kMostBlocksAtOnce ||
      (shape.is_cooperative && blocks > static_cast<uint64_t>(settings.multiprocessors))) {
    return keep_error(cudaErrorCooperativeLaunchTooLarge);
  }
  if (stacks == nullptr) {
    void* memory = mmap(nullptr, kStackDistance * kMostBlocksAtOnce * 1024, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      throw std::bad_alloc();
    }
    stacks = static_cast<char*>(memory);
  }
  Launch launch = {};
  launch.kernel = kernel;
  launch.shape = shape;
  launch.call = call;
  launch.call_bytes = call_bytes;
  launch.body = body;
  launch.number = ++launches;
  launch.threads = static_cast<uint32_t>(threads);
  launch.cluster_blocks = cluster_blocks;
  launch.blocks.resize(at_once);
  launch.fences.resize(blocks);
  fibers.resize(std::max<size_t>(fibers.size(), at_once * threads));
  current_launch = &launch;
  blockDim = shape.block;
  gridDim = shape.grid;
  random_state = 0x9E3779B97F4A7C15U * (settings.seed + 1);
  yields_in_vain = 0;
  const uint32_t groups = static_cast<uint32_t>(blocks) / at_once;
  std::vector<uint32_t> sequence(groups);
  for (uint32_t group = 0; group < groups; ++group) {
    sequence[group] = order() == Order::kBackward ? groups - 1 - group : group;
    if (order() == Order::kRandom || order() == Order::kLatest) {
      std::swap(sequence[group], sequence[random_below(group + 1)]);
    }
  }
  for (uint32_t group = 0; group < groups && failure.empty(); ++group) {
    run_blocks(sequence[group] * at_once, at_once);
  }
  current_launch = nullptr;
  if (!failure.empty()) {
    failure = "kernel " + place_of(kernel) + ": " + failure;
    return keep_error(cudaErrorLaunchFailure);
  }
  return cudaSuccess;
}

}  // namespace cuda_emulation
