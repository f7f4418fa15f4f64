#include "emulator.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "races.h"

// Saves the registers a function must preserve on the current stack, the stack pointer in *save, and goes on where another stack was left.
extern "C" void fa_emulator_switch(void** save, void* load);
asm(R"(
  .pushsection .text
  .globl fa_emulator_switch
  .hidden fa_emulator_switch
  .type fa_emulator_switch, @function
fa_emulator_switch:
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
  .size fa_emulator_switch, .-fa_emulator_switch
  .popsection
)");

namespace emulator {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kLongestBurst = 200;  ///< steps a warp may be ahead of the others by in one go

struct Copy {
  uint32_t shared_address;
  const void* source;
  int bytes;
  bool done;
};

struct Fiber {
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  void* stack_pointer = nullptr;
  bool waiting = false, finished = false;
  std::deque<std::vector<Copy>> groups;  ///< committed, oldest first
  std::vector<Copy> open_group;
};

/// What two successive meetings need is kept apart: nobody reaches the next but one before all have left this one.
struct WarpState {
  int arrived = 0;
  int parity = 0;
  WarpOperation operation = nullptr;
  Warp lanes[2];
};

struct BlockState {
  int index = 0, threads = 0, current = 0;
  const std::function<void()>* body = nullptr;
  int arrived = 0, parity = 0;
  bool flags[2] = {};
  std::vector<int> named[16];  ///< threads that wait at each named barrier
  std::string error;
  std::vector<WarpState> warps;
};

BlockState g_block;
std::vector<Fiber> g_fibers;
void* g_scheduler = nullptr;
std::mt19937 g_random(7);

Fiber& current_fiber() {
  return g_fibers[static_cast<size_t>(g_block.current)];
}

void to_scheduler() {
  races::settle();
  fa_emulator_switch(&current_fiber().stack_pointer, g_scheduler);
}

void fiber_main() {
  (*g_block.body)();
  current_fiber().finished = true;
  to_scheduler();
  std::abort();  // a finished fiber is never resumed
}

void prepare_fiber(Fiber& fiber) {
  fiber.waiting = fiber.finished = false;
  fiber.groups.clear();
  fiber.open_group.clear();
  // As after a call of fiber_main: its return address, below it the six registers that the switch restores.
  uintptr_t top = reinterpret_cast<uintptr_t>(fiber.stack.get() + kStackBytes) / 16 * 16;
  void** frame = reinterpret_cast<void**>(top) - 8;
  std::memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(&fiber_main);
  fiber.stack_pointer = frame;
}

void perform(Copy& copy) {
  if (copy.done) return;
  std::memset(shared_memory() + copy.shared_address, 0, 16);
  if (copy.bytes > 0) std::memcpy(shared_memory() + copy.shared_address, copy.source, static_cast<size_t>(copy.bytes));
  copy.done = true;
}

/// Lets every lane of a warp run until it waits. Returns whether any could; *left counts the block's unfinished threads.
bool advance_warp(int warp, int* left) {
  bool advanced = false;
  for (int lane = 0; lane < kWarpSize && g_block.error.empty(); ++lane) {
    g_block.current = warp * kWarpSize + lane;
    Fiber& fiber = current_fiber();
    if (fiber.waiting || fiber.finished) continue;
    advanced = true;
    fa_emulator_switch(&g_scheduler, fiber.stack_pointer);
    if (fiber.finished) --*left;
  }
  return advanced;
}

/// Warps in random order, by random numbers of steps, until all threads have finished or none can go on.
void schedule() {
  const int warps = g_block.threads / kWarpSize;
  int left = g_block.threads;
  while (left > 0) {
    const int first = static_cast<int>(g_random() % static_cast<unsigned>(warps));
    const int burst = 1 + static_cast<int>(g_random() % kLongestBurst);
    bool advanced = false;
    for (int i = 0; i < warps && !advanced; ++i) {
      for (int step = 0; step < burst && advance_warp((first + i) % warps, &left); ++step) advanced = true;
    }
    if (!g_block.error.empty()) throw std::runtime_error(g_block.error);
    if (!advanced) throw std::runtime_error("deadlock: " + std::to_string(left) + " threads wait for threads that have finished or wait elsewhere");
  }
}

void check_end(size_t shared_bytes) {
  size_t in_flight = 0;
  for (int thread = 0; thread < g_block.threads; ++thread) {
    const Fiber& fiber = g_fibers[static_cast<size_t>(thread)];
    in_flight += fiber.open_group.size();
    for (const std::vector<Copy>& group : fiber.groups) in_flight += group.size();
  }
  if (in_flight > 0) throw std::runtime_error("the block ends with " + std::to_string(in_flight) + " copies in flight");
  for (size_t i = shared_bytes; i < kSharedBytes; ++i) {
    if (shared_memory()[i] != 0xff) throw std::runtime_error("write behind the end of shared memory, at byte " + std::to_string(i));
  }
}

}  // namespace

void run_block(int block, int threads, size_t shared_bytes, const std::function<void()>& thread_body) {
  if (g_fibers.size() < static_cast<size_t>(threads)) g_fibers.resize(static_cast<size_t>(threads));
  g_block = {};
  g_block.index = block;
  g_block.threads = threads;
  g_block.body = &thread_body;
  g_block.warps.resize(static_cast<size_t>(threads / kWarpSize));
  for (int thread = 0; thread < threads; ++thread) prepare_fiber(g_fibers[static_cast<size_t>(thread)]);
  std::memset(shared_memory(), 0xff, kSharedBytes);
  struct Checked {
    ~Checked() { races::end_block(); }
  } checked;
  races::start_block(threads / kWarpSize);
  schedule();
  check_end(shared_bytes);
}

int thread_index() {
  return g_block.current;
}

int block_index() {
  return g_block.index;
}

unsigned char* shared_memory() {
  alignas(1024) static unsigned char memory[kSharedBytes];
  return memory;
}

void fail(const std::string& message) {
  g_block.error = "thread " + std::to_string(g_block.current) + " of block " + std::to_string(g_block.index) + ": " + message;
  to_scheduler();
  std::abort();  // the block has ended
}

bool block_barrier(bool flag) {
  const int parity = g_block.parity;
  g_block.flags[parity] |= flag;
  if (++g_block.arrived < g_block.threads) {
    current_fiber().waiting = true;
    to_scheduler();
  } else {
    races::settle();
    races::meet(~0u >> (32 - g_block.threads / kWarpSize));
    g_block.arrived = 0;
    g_block.parity = 1 - parity;
    g_block.flags[g_block.parity] = false;
    for (int thread = 0; thread < g_block.threads; ++thread) g_fibers[static_cast<size_t>(thread)].waiting = false;
  }
  return g_block.flags[parity];
}

void named_barrier(int id, int threads) {
  if (id < 1 || id > 15 || threads <= 0 || threads % kWarpSize != 0)
    fail("named barrier " + std::to_string(id) + " of " + std::to_string(threads) + " threads");
  std::vector<int>& waiting = g_block.named[id];
  if (static_cast<int>(waiting.size()) + 1 < threads) {
    waiting.push_back(g_block.current);
    current_fiber().waiting = true;
    to_scheduler();
  } else {
    uint32_t warps = 1u << g_block.current / kWarpSize;
    for (const int thread : waiting) {
      warps |= 1u << thread / kWarpSize;
      g_fibers[static_cast<size_t>(thread)].waiting = false;
    }
    races::settle();
    races::meet(warps);
    waiting.clear();
  }
}

std::array<uint32_t, 4> warp_wide(WarpOperation operation, const std::array<uint32_t, 6>& in) {
  const int first_thread = g_block.current / kWarpSize * kWarpSize;
  WarpState& warp = g_block.warps[static_cast<size_t>(g_block.current / kWarpSize)];
  if (warp.arrived == 0) warp.operation = operation;
  if (warp.operation != operation) fail("lanes of the warp meet in different operations");
  const int parity = warp.parity;
  Lane& lane = warp.lanes[parity][static_cast<size_t>(g_block.current - first_thread)];
  lane.in = in;
  if (++warp.arrived < kWarpSize) {
    current_fiber().waiting = true;
    to_scheduler();
  } else {
    races::settle();
    races::begin_operation();
    operation(warp.lanes[parity]);
    races::end_operation();
    warp.arrived = 0;
    warp.parity = 1 - parity;
    for (int i = 0; i < kWarpSize; ++i) g_fibers[static_cast<size_t>(first_thread + i)].waiting = false;
  }
  return lane.out;
}

void order_warp() {
  races::meet(1u << g_block.current / kWarpSize);
}

void copy_async(uint32_t shared_address, const void* source, int bytes) {
  if (shared_address % 16 != 0 || (bytes == 16 && reinterpret_cast<uintptr_t>(source) % 16 != 0)) fail("misaligned asynchronous copy");
  races::begin_copy(shared_address);
  Copy copy{shared_address, source, bytes, false};
  if (g_random() % 2 != 0) perform(copy);
  current_fiber().open_group.push_back(copy);
}

void commit_copies() {
  Fiber& fiber = current_fiber();
  fiber.groups.push_back(std::move(fiber.open_group));
  fiber.open_group.clear();
}

void wait_for_copies(int groups_in_flight) {
  Fiber& fiber = current_fiber();
  while (fiber.groups.size() > static_cast<size_t>(groups_in_flight)) {
    for (Copy& copy : fiber.groups.front()) {
      perform(copy);
      races::end_copy(copy.shared_address);
    }
    fiber.groups.pop_front();
  }
}

}  // namespace emulator
