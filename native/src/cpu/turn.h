// Turn counters of the backward passes: who adds next to the gradients of a key tile.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace fa::cpu {

using Turn = std::atomic<int64_t>;
static_assert(sizeof(Turn) == 8, "turn counters lie in the workspace, 8 bytes each");

/// A waiting thread first tries again at once, then offers its processor to others, then sleeps: a turn comes within the time of one key tile, some hundred
/// microseconds, unless there are more threads than processors.
inline void await_turn(const Turn& turn, int64_t mine) {
  constexpr int kBusyTries = 64;
  constexpr int kYieldingTries = 512;
  constexpr std::chrono::microseconds kSleep(50);
  for (int tries = 0; turn.load(std::memory_order_acquire) != mine; ++tries) {
    if (tries < kBusyTries) continue;
    if (tries < kYieldingTries) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
  }
}

}  // namespace fa::cpu
