// A model of one CUDA thread block: every thread is a fiber that runs until it must wait for others. Single-threaded and deterministic.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emulator {

inline constexpr int kWarpSize = 32;
inline constexpr size_t kSharedBytes = 256 * 1024;  ///< more than any kernel uses: what lies behind its part is checked

/// Runs thread_body in every thread of a block. Throws std::runtime_error if the block breaks a rule of the model (see README.md) or cannot go on.
void run_block(int block, int threads, size_t shared_bytes, const std::function<void()>& thread_body);

// What follows is called by threads of the block.

int thread_index();
int block_index();
/// Address of the block's shared memory; offsets from it are shared-window addresses. Aligned to 1024 bytes.
unsigned char* shared_memory();
/// Ends the run with an error.
[[noreturn]] void fail(const std::string& message);

/// Waits for all threads of the block and returns whether any of them passed true.
bool block_barrier(bool flag);
/// Waits until so many threads have come to the barrier of this number, 1 to 15.
void named_barrier(int id, int threads);

/// What a lane brings to a warp-wide operation and what it takes from it.
struct Lane {
  std::array<uint32_t, 6> in;
  std::array<uint32_t, 4> out;
};
using Warp = std::array<Lane, kWarpSize>;
using WarpOperation = void (*)(Warp& warp);

/// Waits for all lanes of the warp, which must ask for the same operation; it is performed once for all of them. Returns this lane's results.
std::array<uint32_t, 4> warp_wide(WarpOperation operation, const std::array<uint32_t, 6>& in);

/// For a warp-wide operation that orders memory: what lanes did before it comes before what others of the warp do behind it. Others, like shuffles, do not.
void order_warp();

/// Asynchronous copies of a thread, in groups as cp.async forms them. Writes 16 bytes at a shared-window address: `bytes` from source, the rest 0.
void copy_async(uint32_t shared_address, const void* source, int bytes);
void commit_copies();
void wait_for_copies(int groups_in_flight);

}  // namespace emulator
