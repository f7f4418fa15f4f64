// Stand-in for native/src/ptx/mbarrier.cuh: barriers of the operating system's threads, for tests in which roles of a block are threads of their own. A wait
// that takes too long throws.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <stdexcept>

namespace fa::ptx {

namespace model {

/// What a barrier's word holds.
struct Barrier {
  uint8_t arrivals;  ///< of a phase
  uint8_t pending;
  uint8_t phase;
  int32_t bytes;  ///< yet to come; negative while copies are faster than the arrival that announces them
};
static_assert(sizeof(Barrier) == sizeof(uint64_t));

inline std::mutex mutex;
inline std::condition_variable changed;

/// Arrivals and bytes.
inline void add(uint64_t* word, int arrivals, int32_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  Barrier& barrier = *reinterpret_cast<Barrier*>(word);
  if (barrier.pending < arrivals) throw std::runtime_error("more arrivals than the barrier expects");
  barrier.pending = static_cast<uint8_t>(barrier.pending - arrivals);
  barrier.bytes += bytes;
  if (barrier.pending == 0 && barrier.bytes == 0) {
    barrier.pending = barrier.arrivals;
    barrier.phase ^= 1;
    changed.notify_all();
  }
}

}  // namespace model

inline void mbarrier_init(uint64_t* word, uint32_t arrivals) {
  *reinterpret_cast<model::Barrier*>(word) = {static_cast<uint8_t>(arrivals), static_cast<uint8_t>(arrivals), 0, 0};
}
inline void mbarrier_arrive(uint64_t* word) {
  model::add(word, 1, 0);
}
inline void mbarrier_arrive_expect_tx(uint64_t* word, uint32_t bytes) {
  model::add(word, 1, static_cast<int32_t>(bytes));
}
inline void mbarrier_wait(uint64_t* word, uint32_t parity) {
  std::unique_lock<std::mutex> lock(model::mutex);
  const auto passed = [&] { return reinterpret_cast<model::Barrier*>(word)->phase != parity; };
  if (!model::changed.wait_for(lock, std::chrono::seconds(20), passed)) throw std::runtime_error("a barrier that nobody completes");
}

}  // namespace fa::ptx
