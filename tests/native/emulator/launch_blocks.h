// Runs kernels block by block. For files that are compiled as device code.
#pragma once

#include "emulator.h"

namespace fa_test {

/// Runs the whole grid of a kernel, block after block. more_bytes: shared memory behind the kernel's own.
template <class Config, template <class> class Block, class Params>
void launch_blocks(const Params& params, size_t more_bytes = 0) {
  using Shared = typename Config::Shared;
  for (int block = 0; block < params.order.num_tiles * params.order.num_heads; ++block) {
    emulator::run_block(block, Config::kThreads, sizeof(Shared) + more_bytes, [&] {
      Block<Config> work(params, *reinterpret_cast<Shared*>(emulator::shared_memory()));
      work.run();
    });
  }
}

/// The same for a kernel that is a function and has no shared memory.
template <class Params>
void launch_grid(void (*kernel)(Params), int blocks, int threads, const Params& params) {
  emulator::grid_blocks = static_cast<unsigned>(blocks);
  for (int block = 0; block < blocks; ++block) {
    emulator::run_block(block, threads, 0, [&] { kernel(params); });
  }
}

}  // namespace fa_test
