// The finder of races itself, on small blocks: what it must report and what it must not.
#include <gtest/gtest.h>

#include <exception>
#include <functional>
#include <string>

#include "cuda_runtime.h"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/named_barrier.cuh"

namespace fa_test {
namespace {

/// What run_block says of a block of four warps; empty if nothing.
std::string verdict(const std::function<void(int* s, int thread)>& body) {
  try {
    emulator::run_block(0, 128, 64 * 1024, [&] { body(reinterpret_cast<int*>(emulator::shared_memory()), emulator::thread_index()); });
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

/// Only gcc calls the functions that see plain accesses.
#if defined(__GNUC__) && !defined(__clang__)
#define FA_SKIP_UNLESS_SEEN() static_cast<void>(0)
#else
#define FA_SKIP_UNLESS_SEEN() GTEST_SKIP() << "plain accesses are seen with gcc alone"
#endif

#define EXPECT_RACE(...) EXPECT_NE(verdict(__VA_ARGS__).find("without a barrier"), std::string::npos)
#define EXPECT_NO_RACE(...) EXPECT_EQ(verdict(__VA_ARGS__), "")

volatile int g_sink;

TEST(EmulatedRaces, BlockBarrier) {
  FA_SKIP_UNLESS_SEEN();
  EXPECT_NO_RACE([](int* s, int thread) {
    for (int round = 0; round < 3; ++round) {
      s[thread] = round;
      __syncthreads();
      g_sink = s[(thread + 40) % 128];
      __syncthreads();
    }
  });
  EXPECT_RACE([](int* s, int thread) {  // write to read
    s[thread] = thread;
    g_sink = s[(thread + 40) % 128];
  });
  EXPECT_RACE([](int* s, int thread) {  // read to the next round's write
    for (int round = 0; round < 2; ++round) {
      s[thread] = round;
      __syncthreads();
      g_sink = s[(thread + 40) % 128];
    }
  });
  EXPECT_RACE([](int* s, int thread) { s[thread % 64] = thread; });
}

TEST(EmulatedRaces, ManyMayWriteTheSame) {
  FA_SKIP_UNLESS_SEEN();
  EXPECT_NO_RACE([](int* s, int thread) {
    s[thread] = 0;
    __syncthreads();
    if (thread % 3 == 0) s[0] = 7;
    __syncthreads();
    g_sink = s[0];
  });
  EXPECT_RACE([](int* s, int thread) {  // the flag of the next round before everyone has read this one's
    for (int round = 0; round < 3; ++round) {
      if (thread == 77) s[0] = round;
      __syncthreads();
      g_sink = s[0];
    }
  });
}

TEST(EmulatedRaces, NamedBarrier) {
  FA_SKIP_UNLESS_SEEN();
  const auto exchange = [](int partner) {
    return [partner](int* s, int thread) {
      s[thread] = thread;
      fa::ptx::named_barrier_sync(1 + thread / 64, 64);
      g_sink = s[thread ^ partner];
    };
  };
  EXPECT_NO_RACE(exchange(32));
  EXPECT_RACE(exchange(64));
  // Warp 1 tells warp 2 what warp 0 has told it.
  EXPECT_NO_RACE([](int* s, int thread) {
    if (thread < 32) s[thread] = thread;
    if (thread < 64) fa::ptx::named_barrier_sync(1, 64);
    if (thread >= 32 && thread < 96) fa::ptx::named_barrier_sync(2, 64);
    if (thread / 32 == 2) g_sink = s[thread - 64];
  });
}

TEST(EmulatedRaces, WithinAWarp) {
  FA_SKIP_UNLESS_SEEN();
  EXPECT_NO_RACE([](int* s, int thread) {
    s[thread] = thread;
    __syncwarp();
    g_sink = s[thread ^ 1];
    __syncwarp();
    s[thread] = 1;
  });
  EXPECT_RACE([](int* s, int thread) {
    s[thread] = thread;
    g_sink = s[thread ^ 1];
  });
  EXPECT_RACE([](int* s, int thread) {  // a shuffle orders no memory
    s[thread] = thread;
    g_sink = static_cast<int>(__shfl_xor_sync(0xffffffffu, static_cast<unsigned>(thread), 1)) + s[thread ^ 1];
  });
  EXPECT_RACE([](int* s, int thread) {  // of the rows of a matrix, all but one are other lanes'
    s[4 * thread] = s[4 * thread + 1] = s[4 * thread + 2] = s[4 * thread + 3] = 0;
    uint32_t r[4];
    fa::ptx::ldmatrix_x4(r, static_cast<uint32_t>(16 * thread));
  });
}

TEST(EmulatedRaces, Copies) {
  alignas(16) static const int source[4 * 128] = {};
  const auto copy = [](bool wait, bool barrier, int distance) {
    return [=](int*, int thread) {
      fa::ptx::cp_async_16(static_cast<uint32_t>(16 * thread), source + 4 * thread);
      fa::ptx::cp_async_commit();
      if (wait) fa::ptx::cp_async_wait<0>();
      if (barrier) __syncthreads();
      fa::ptx::cp_async_16(static_cast<uint32_t>(16 * ((thread + distance) % 128)), source);  // stands for any access
      fa::ptx::cp_async_commit();
      fa::ptx::cp_async_wait<0>();
    };
  };
  EXPECT_NO_RACE(copy(true, true, 40));
  EXPECT_NO_RACE(copy(true, false, 0));
  EXPECT_RACE(copy(true, false, 40));
  EXPECT_RACE(copy(false, true, 40));
  EXPECT_RACE(copy(false, false, 0));
}

}  // namespace
}  // namespace fa_test
