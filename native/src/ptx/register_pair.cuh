// Two values in neighbouring registers.
#pragma once

namespace fa::ptx {

/// Makes ptxas keep a and b in an even and the odd register behind it: they are the operands of a 64-bit store that never happens, since no grid has a height
/// of 0. Registers of the same parity share a bank of the register file. Where the instructions of a long sequence take one or the other of two such operands
/// by turns, none can stay in the operand cache, and their reads hold up wgmma, which reads and writes its accumulators all the time.
__device__ __forceinline__ void keep_in_register_pair(float a, float b) {
  asm volatile(
      "{\n"
      ".reg .pred never;\n"
      "setp.eq.u32 never, %2, 0;\n"
      "@never st.shared.v2.f32 [%2], {%0, %1};\n"
      "}\n" ::"f"(a),
      "f"(b), "r"(gridDim.y));
}

}  // namespace fa::ptx
