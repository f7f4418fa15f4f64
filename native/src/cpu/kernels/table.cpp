// The table of this instruction set: fa::cpu::kernels_plain(), kernels_avx2() or kernels_avx512().
#include "cpu/kernels/backward.h"
#include "cpu/kernels/dropout_row.h"
#include "cpu/kernels/forward.h"
#include "cpu/kernels/rows.h"
#include "cpu/kernels/variant_backward.h"
#include "cpu/kernels/variant_forward.h"

namespace fa::cpu {

const KernelTable& FA_CONCAT(kernels_, FA_CPU_TARGET)() {
  namespace target = FA_CPU_TARGET;
  static constexpr KernelTable table = {target::kName,
                                        target::kSuffix,
                                        target::kBlockVecs * target::kLanes,
                                        target::forward,
                                        target::backward_begin,
                                        target::backward_scores,
                                        target::backward_accumulate,
                                        target::backward_end,
                                        target::write_rows,
                                        target::read_rows,
                                        target::dropout_row,
                                        target::variant_forward,
                                        target::variant_backward_scores,
                                        target::variant_backward_accumulate};
  return table;
}

}  // namespace fa::cpu
