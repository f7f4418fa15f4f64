#include "races.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "emulator.h"

namespace emulator::races {
namespace {

constexpr int kMaxWarps = 8;        ///< blocks of more are not checked
constexpr uint32_t kCellBytes = 2;  ///< no two threads write parts of one element
constexpr uint32_t kCells = kSharedBytes / kCellBytes;
constexpr uint8_t kSeveralLanes = 32, kAllLanes = 33;  ///< kAllLanes: a warp-wide operation

struct Stamp {
  uint32_t clock = 0;  ///< of the warp; 0 is before every block
  uint8_t warp = 0, lane = 0;
};

struct Cell {
  Stamp write;
  bool copied = false;  ///< a copy by write's thread is under way
  uint8_t read_lane[kMaxWarps] = {};
  uint32_t read_clock[kMaxWarps] = {};  ///< of each warp's last read
};

/// A write that nothing orders after another thread's. It is no error if both write the same.
struct Doubtful {
  uint32_t offset = 0, bytes = 0;
  unsigned char before[16];
  std::string message;
};

/// g_clocks[w][u]: up to which time of warp u its accesses come before what warp w does now; g_clocks[w][w] is its own time.
uint32_t g_clocks[kMaxWarps][kMaxWarps];
std::vector<Cell> g_cells(kCells);
Doubtful g_doubtful;
int g_warps = 0, g_copies = 0;  ///< of the block; under way
bool g_active = false, g_operation = false;

std::string name(int warp, int lane) {
  return lane < kWarpSize ? "thread " + std::to_string(warp * kWarpSize + lane) : "warp " + std::to_string(warp);
}

[[noreturn]] void report(const std::string& message) {
  g_active = false;
  fail(message);
}

struct Access {
  int warp, lane;
  uint32_t offset;  ///< of the cell
  Cell& cell;

  bool follows_write() const {
    const Stamp& write = cell.write;
    if (write.warp != warp) return write.clock <= g_clocks[warp][write.warp];
    return write.clock < g_clocks[warp][warp] || (write.lane == lane && !g_operation);
  }
  /// A warp whose read this write may overtake, or -1.
  int overtaken_reader() const {
    for (int u = 0; u < g_warps; ++u) {
      if (u != warp && cell.read_clock[u] > g_clocks[warp][u]) return u;
    }
    const bool of_now = cell.read_clock[warp] == g_clocks[warp][warp] && cell.read_clock[warp] != 0;
    return of_now && cell.read_lane[warp] != lane && cell.read_lane[warp] != kAllLanes ? warp : -1;
  }
  std::string text(const std::string& what) const { return what + " shared memory at byte " + std::to_string(offset) + ", without a barrier behind "; }

  void check_copy() const {
    if (cell.copied) report(text("touches") + "the copy of " + name(cell.write.warp, cell.write.lane) + " that is under way");
  }
  void read() const {
    check_copy();
    if (!follows_write()) report(text("reads") + "the write of " + name(cell.write.warp, cell.write.lane));
    uint8_t& reader = cell.read_lane[warp];
    const uint8_t now = g_operation ? kAllLanes : static_cast<uint8_t>(lane);
    const bool again = cell.read_clock[warp] == g_clocks[warp][warp] && reader != kAllLanes && now != kAllLanes && reader != now;
    if (now != kAllLanes || cell.read_clock[warp] != g_clocks[warp][warp]) reader = again ? kSeveralLanes : now;
    cell.read_clock[warp] = g_clocks[warp][warp];
  }
  /// Returns what there is to say if the value changes.
  std::string write() const {
    check_copy();
    const int reader = overtaken_reader();
    if (reader >= 0) report(text("writes") + "the read of " + name(reader, reader == warp ? cell.read_lane[warp] : kAllLanes));
    std::string doubt;
    if (!follows_write()) doubt = text("writes") + "another value than " + name(cell.write.warp, cell.write.lane) + " has written";
    cell.write = {g_clocks[warp][warp], static_cast<uint8_t>(warp), static_cast<uint8_t>(lane)};
    return doubt;
  }
};

/// Calls visit with every cell of `bytes` at address that lies in shared memory.
template <class Visit>
void for_cells(const void* address, size_t bytes, Visit&& visit) {
  if (!g_active) return;
  static const uintptr_t s_begin = reinterpret_cast<uintptr_t>(shared_memory());
  const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - s_begin;
  if (offset >= kSharedBytes) return;
  settle();
  const uint32_t first = static_cast<uint32_t>(offset), thread = static_cast<uint32_t>(thread_index());
  for (uint32_t cell = first / kCellBytes; cell * kCellBytes < first + bytes; ++cell) {
    visit(Access{static_cast<int>(thread / kWarpSize), static_cast<int>(thread % kWarpSize), cell * kCellBytes, g_cells[cell]});
  }
}

}  // namespace

void read(const void* address, size_t bytes) {
  for_cells(address, bytes, [](const Access& access) { access.read(); });
}

void write(const void* address, size_t bytes) {
  std::string first_doubt;
  for_cells(address, bytes, [&](const Access& access) {
    std::string doubt = access.write();
    if (!doubt.empty() && first_doubt.empty()) first_doubt = std::move(doubt);
  });
  if (first_doubt.empty()) return;
  g_doubtful.message = std::move(first_doubt);
  g_doubtful.offset = static_cast<uint32_t>(static_cast<const unsigned char*>(address) - shared_memory());
  g_doubtful.bytes = static_cast<uint32_t>(std::min(bytes, sizeof(g_doubtful.before)));
  std::memcpy(g_doubtful.before, address, g_doubtful.bytes);
}

void start_block(int warps) {
  g_warps = std::min(warps, kMaxWarps);
  meet((1u << kMaxWarps) - 1);
  g_doubtful = {};
  g_operation = false;
  if (g_copies != 0) {  // an error has ended the block before
    for (Cell& cell : g_cells) cell.copied = false;
    g_copies = 0;
  }
  g_active = warps <= kMaxWarps;
}

void end_block() {
  g_active = false;
}

void meet(uint32_t warps) {
  uint32_t known[kMaxWarps] = {};
  for (int w = 0; w < kMaxWarps; ++w) {
    for (int u = 0; u < kMaxWarps; ++u) known[u] = std::max(known[u], (warps >> w & 1) != 0 ? g_clocks[w][u] : 0);
  }
  for (int w = 0; w < kMaxWarps; ++w) {
    if ((warps >> w & 1) == 0) continue;
    std::copy(known, known + kMaxWarps, g_clocks[w]);
    ++g_clocks[w][w];
  }
}

void begin_operation() {
  g_operation = true;
}

void end_operation() {
  settle();
  g_operation = false;
}

void begin_copy(uint32_t offset) {
  write(shared_memory() + offset, 16);
  // A copy that nothing orders after a write is an error whatever it brings: nobody knows which of the two comes last.
  if (!g_doubtful.message.empty()) report(g_doubtful.message);
  if (!g_active) return;
  for (uint32_t cell = offset / kCellBytes; cell < (offset + 16) / kCellBytes; ++cell) g_cells[cell].copied = true;
  ++g_copies;
}

void end_copy(uint32_t offset) {
  if (!g_active) return;
  --g_copies;
  const uint32_t thread = static_cast<uint32_t>(thread_index()), warp = thread / kWarpSize;
  for (uint32_t cell = offset / kCellBytes; cell < (offset + 16) / kCellBytes; ++cell) {
    g_cells[cell].copied = false;
    g_cells[cell].write = {g_clocks[warp][warp], static_cast<uint8_t>(warp), static_cast<uint8_t>(thread % kWarpSize)};
  }
}

void settle() {
  if (g_doubtful.message.empty()) return;
  const std::string message = std::move(g_doubtful.message);
  g_doubtful.message.clear();
  if (std::memcmp(g_doubtful.before, shared_memory() + g_doubtful.offset, g_doubtful.bytes) != 0) report(message);
}

}  // namespace emulator::races

// What gcc calls before accesses.
extern "C" {
void __tsan_init();
void __tsan_init() {}
#define FA_ACCESS(bytes)                              \
  void __tsan_read##bytes(void* address);             \
  void __tsan_write##bytes(void* address);            \
  void __tsan_read##bytes(void* address) {            \
    emulator::races::read(address, bytes);            \
  }                                                   \
  void __tsan_write##bytes(void* address) {           \
    emulator::races::write(address, bytes);           \
  }                                                   \
  void __tsan_unaligned_read##bytes(void* address);   \
  void __tsan_unaligned_write##bytes(void* address);  \
  void __tsan_unaligned_read##bytes(void* address) {  \
    emulator::races::read(address, bytes);            \
  }                                                   \
  void __tsan_unaligned_write##bytes(void* address) { \
    emulator::races::write(address, bytes);           \
  }
FA_ACCESS(1)
FA_ACCESS(2)
FA_ACCESS(4)
FA_ACCESS(8)
FA_ACCESS(16)
#undef FA_ACCESS
void __tsan_read_range(void* address, size_t bytes);
void __tsan_write_range(void* address, size_t bytes);
void __tsan_vptr_read(void** address);
void __tsan_vptr_update(void** address, void* value);
void __tsan_read_range(void* address, size_t bytes) {
  emulator::races::read(address, bytes);
}
void __tsan_write_range(void* address, size_t bytes) {
  emulator::races::write(address, bytes);
}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
// Counts of references in the standard library.
unsigned __tsan_atomic32_fetch_add(volatile unsigned* number, unsigned more, int order);
unsigned __tsan_atomic32_fetch_add(volatile unsigned* number, unsigned more, int) {
  return __atomic_fetch_add(number, more, __ATOMIC_SEQ_CST);
}
}
