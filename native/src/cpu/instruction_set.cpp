#include "cpu/instruction_set.h"

#include <cstdlib>
#include <cstring>

#include "plan/cpu_layout.h"
#include "runtime/backend.h"

#if defined(__x86_64__) || defined(_M_X64)
#define FA_X86_64 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace fa::cpu {

const KernelTable& kernels_plain();
#if defined(FA_CPU_HAVE_AVX2)
const KernelTable& kernels_avx2();
#endif
#if defined(FA_CPU_HAVE_AVX512)
const KernelTable& kernels_avx512();
#endif

namespace {

enum class Isa { kPlain, kAvx2, kAvx512 };

#if defined(FA_X86_64)
struct CpuidRegisters {
  uint32_t eax, ebx, ecx, edx;
};

CpuidRegisters cpuid(uint32_t leaf) {
  CpuidRegisters r{};
#if defined(_MSC_VER)
  int registers[4];
  __cpuidex(registers, static_cast<int>(leaf), 0);
  std::memcpy(&r, registers, sizeof(r));
#else
  __cpuid_count(leaf, 0, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

/// XCR0: which register state the operating system saves.
uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
#endif
}

Isa machine_isa() {
  if (cpuid(0).eax < 7) return Isa::kPlain;
  const uint32_t ecx1 = cpuid(1).ecx, ebx7 = cpuid(7).ebx;
  constexpr uint32_t kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kAvx2 = 1u << 5, kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6;
  constexpr uint32_t kNeeded = kFma | kOsXsave | kAvx | kF16c;
  if ((ecx1 & kNeeded) != kNeeded || (ebx7 & kAvx2) == 0) return Isa::kPlain;
  const uint64_t state = saved_state();
  if ((state & kYmmState) != kYmmState) return Isa::kPlain;
  return (ebx7 & kAvx512) == kAvx512 && (state & kZmmState) == kZmmState ? Isa::kAvx512 : Isa::kAvx2;
}
#else
Isa machine_isa() {
  return Isa::kPlain;
}
#endif

Isa allowed_isa() {
  const char* name = std::getenv("FLASH_ATTENTION_CPU_ISA");
  if (name != nullptr && std::strcmp(name, "plain") == 0) return Isa::kPlain;
  if (name != nullptr && std::strcmp(name, "avx2") == 0) return Isa::kAvx2;
  return Isa::kAvx512;
}

const KernelTable& choose_kernels() {
  const Isa machine = machine_isa(), allowed = allowed_isa();
  const Isa isa = machine < allowed ? machine : allowed;
#if defined(FA_CPU_HAVE_AVX512)
  if (isa == Isa::kAvx512) return kernels_avx512();
#endif
#if defined(FA_CPU_HAVE_AVX2)
  if (isa >= Isa::kAvx2) return kernels_avx2();
#endif
  (void)isa;
  return kernels_plain();
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable& chosen = choose_kernels();
  return chosen;
}

}  // namespace fa::cpu

namespace fa {

const char* cpu_instruction_set() {
  return cpu::kernels().name;
}

const char* cpu_kernel_suffix() {
  return cpu::kernels().suffix;
}

}  // namespace fa
