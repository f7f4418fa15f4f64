// The CPU backend's threads. Workers are shared by all calls of the process; a call's own thread always takes part, so a call makes progress even if no worker
// is free or can be created.
#pragma once

namespace fa::cpu {

/// Calls work(context, slot) on the calling thread with slot 0 and on up to max_slots - 1 workers with distinct slots 1 … max_slots - 1, and returns when all
/// of them have returned. `work` takes its tasks from a shared counter, must not throw, and must be complete once the call with slot 0 returns and the started
/// others have returned (a worker that comes too late is not started). Never allocates once the workers exist. A process that forks loses the workers: a child
/// must not call the library.
void run_on_threads(int max_slots, void (*work)(void* context, int slot), void* context) noexcept;

}  // namespace fa::cpu
