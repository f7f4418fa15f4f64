#include "cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "plan/error.h"
#include "runtime/backend.h"

#if defined(__linux__)
#include <sched.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#ifndef NOMINMAX  // MinGW's C++ library defines it
#define NOMINMAX
#endif
#include <windows.h>
#endif

namespace fa {
namespace {

constexpr int kMaxThreads = 1024;

int usable_processors() {
  int count = 0;
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
#endif
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  return std::clamp(count, 1, kMaxThreads);
}

/// 0: not asked for yet.
std::atomic<int> g_num_threads{0};

}  // namespace

int cpu_num_threads() {
  int count = g_num_threads.load(std::memory_order_relaxed);
  if (count != 0) return count;
  int expected = 0;
  const int usable = usable_processors();
  return g_num_threads.compare_exchange_strong(expected, usable) ? usable : expected;
}

void cpu_set_num_threads(int num_threads) {
  if (num_threads < 0 || num_threads > kMaxThreads) {
    fail(FA_STATUS_INVALID_ARGUMENT, "num_threads: expected 0 to %d, got %d", kMaxThreads, num_threads);
  }
  g_num_threads.store(num_threads == 0 ? usable_processors() : num_threads);
}

namespace cpu {
namespace {

/// One run_on_threads call; lives on the caller's stack and in the pool's list while workers may still join.
struct Job {
  void (*work)(void*, int);
  void* context;
  int next_slot;
  int max_slots;
  int active_workers;
  Job* next;
};

class Pool {
 public:
  void run(int max_slots, void (*work)(void*, int), void* context) noexcept {
    Job job{work, context, 1, max_slots, 0, nullptr};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) {
        job.max_slots = 1;
      } else {
        add_workers(max_slots - 1);
        Job** end = &jobs_;
        while (*end != nullptr) end = &(*end)->next;
        *end = &job;
      }
    }
    if (job.max_slots > 1) wake_.notify_all();
    work(context, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    remove(&job);
    finished_.wait(lock, [&job] { return job.active_workers == 0; });
  }

  void stop() noexcept {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (int i = 0; i < num_workers_; ++i) workers_[i].join();
    num_workers_ = 0;
  }

 private:
  /// Under the lock. Workers are never given back; if one cannot be created, the call does with those that are there.
  void add_workers(int wanted) noexcept {
    while (num_workers_ < std::min(wanted, kMaxThreads - 1)) {
      try {
        workers_[num_workers_] = std::thread([this] { serve(); });
      } catch (const std::exception&) {
        return;
      }
      ++num_workers_;
    }
  }

  void remove(Job* job) noexcept {
    for (Job** link = &jobs_; *link != nullptr; link = &(*link)->next) {
      if (*link == job) {
        *link = job->next;
        return;
      }
    }
  }

  void serve() noexcept {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || jobs_ != nullptr; });
      if (stopping_) return;
      Job* job = jobs_;
      const int slot = job->next_slot++;
      ++job->active_workers;
      if (job->next_slot == job->max_slots) remove(job);
      lock.unlock();
      job->work(job->context, slot);
      lock.lock();
      if (--job->active_workers == 0) finished_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;      ///< a job was added, or stop
  std::condition_variable finished_;  ///< some job has no active worker left
  Job* jobs_ = nullptr;               ///< jobs with free slots, oldest first
  bool stopping_ = false;
  int num_workers_ = 0;
  std::thread workers_[kMaxThreads - 1];
};

/// The pool's memory is never destroyed, so that a call during the end of the process still finds it (and then runs on its own thread).
alignas(Pool) unsigned char g_pool_memory[sizeof(Pool)];

Pool& pool() {
  static Pool* const instance = [] {
    Pool* created = new (g_pool_memory) Pool;
#if defined(_WIN32)
    // Joining under the loader lock would hang: workers are left to the end of the process, and the library stays loaded until then.
    HMODULE module;
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN, reinterpret_cast<LPCWSTR>(&g_pool_memory), &module);
#else
    // Ends the workers when the process exits or the library is unloaded.
    static struct Stopper {
      Pool* stopped = nullptr;
      ~Stopper() {
        if (stopped != nullptr) stopped->stop();
      }
    } stopper;
    stopper.stopped = created;
#endif
    return created;
  }();
  return *instance;
}

}  // namespace

void run_on_threads(int max_slots, void (*work)(void*, int), void* context) noexcept {
  if (max_slots <= 1) return work(context, 0);
  pool().run(max_slots, work, context);
}

}  // namespace cpu
}  // namespace fa
