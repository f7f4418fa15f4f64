// Tasks of a call, handed out in order to the threads that take part.
#pragma once

#include <atomic>
#include <cstdint>

#include "cpu/thread_pool.h"

namespace fa::cpu {

/// Calls run(task, scratch) for every task 0 … num_tasks − 1, each on one of at most `threads` threads; a thread makes its scratch once, with
/// make_scratch(slot). Tasks are taken in ascending order: a task may wait for one of a lower number.
template <class MakeScratch, class Run>
void run_tasks(int threads, int64_t num_tasks, const MakeScratch& make_scratch, const Run& run) {
  struct Context {
    const MakeScratch& make_scratch;
    const Run& run;
    int64_t num_tasks;
    std::atomic<int64_t> next_task{0};
  };
  Context context{make_scratch, run, num_tasks};
  const auto work = [](void* shared, int slot) {
    Context& c = *static_cast<Context*>(shared);
    const auto scratch = c.make_scratch(slot);
    while (true) {
      const int64_t task = c.next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= c.num_tasks) return;
      c.run(task, scratch);
    }
  };
  run_on_threads(threads, work, &context);
}

}  // namespace fa::cpu
