// Finds accesses to a block's shared memory that no barrier orders, whatever order the emulator happened to run the warps in: vector clocks of warps, as race
// detectors for processors keep them of threads. Plain accesses are seen because the kernels are compiled with -fsanitize=thread, which calls a function before
// each of them; those functions are here, not in the sanitizer's library. With a compiler that is not gcc nothing calls them, and only asynchronous copies and
// ldmatrix are checked.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator::races {

/// A block of so many warps starts: what was before it is forgotten. Nothing is checked outside of blocks.
void start_block(int warps);
void end_block();

/// The warps of the mask have met: what they did before comes before what they will do.
void meet(uint32_t warps);

/// The calling thread is about to read or write there; what is not shared memory is left alone.
void read(const void* address, size_t bytes);
void write(const void* address, size_t bytes);

/// Between the two a warp-wide operation is performed for all lanes: no lane of the warp can overtake it.
void begin_operation();
void end_operation();

/// The calling thread's asynchronous copy of 16 bytes to an offset in shared memory: it may write at any time between the two.
void begin_copy(uint32_t offset);
void end_copy(uint32_t offset);

/// To be called when another thread may run next: whether a write beside another thread's wrote something else.
void settle();

}  // namespace emulator::races
