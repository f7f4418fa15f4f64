// Branch hints: the compiler moves what is marked unlikely out of the instruction stream of a hot loop.
#pragma once

#if defined(__GNUC__) || defined(__CUDACC__)
#define FA_LIKELY(condition) __builtin_expect(static_cast<bool>(condition), 1)
#define FA_UNLIKELY(condition) __builtin_expect(static_cast<bool>(condition), 0)
#else
#define FA_LIKELY(condition) (condition)
#define FA_UNLIKELY(condition) (condition)
#endif
