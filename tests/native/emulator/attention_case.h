// One attention problem in the form in which the portable kernels take it, and what they must compute.
#pragma once

#include <string>
#include <vector>

#include "kernels/sm80/backward/params.h"
#include "kernels/sm80/forward/params.h"
#include "plan/problem.h"
#include "plan/sm80_variants.h"
#include "reference.h"

namespace fa_test {

/// Where sequences of different lengths lie: one per batch entry, at its start or at its end; or one behind the other, with unused places between and behind
/// them, in front of or behind the used ones.
enum class Placement { kFull, kPadded, kLeftPadded, kPacked, kPackedWithGaps, kPackedLeftPadded };

/// The tensor that gets a NaN (v: an infinity) in one row of every head.
enum class Poisoned { kNothing, kQ, kK, kV, kGradO };

struct CaseOptions {
  int batch = 1, len_q = 1, len_kv = 1, heads_q = 1, heads_kv = 1, head_dim = 64, head_dim_v = 64;
  fa::Mask mask = fa::Mask::kNone;
  bool deterministic = false;
  bool aligned = true;  ///< rows start at multiples of 16 bytes
  Poisoned poisoned = Poisoned::kNothing;
  int poisoned_row = 0;
  int poisoned_column = 3;
  // Of the modified kernels.
  int window_left = -1, window_right = -1;  ///< of a window mask
  int chunk = 0;
  float softcap = 0.0f;
  int alibi = 0;  ///< 1: slopes per head, 2: per batch and head
  int bias = 0;   ///< 1: float32 of every pair, 2: 16 bits, the same for all heads and queries, 3: 16 bits, the same for all batches and heads, 4: float32,
                  ///< the same for all batches and queries, 5: 16 bits of every pair; some of it -infinity
  bool stage_bias = false;        ///< through shared memory
  bool direct_grad_bias = false;  ///< the main kernel writes the gradient of the bias
  int visible = 0;                ///< 1: of every pair, 2: of keys
  int block_mask = 0;             ///< extent of a block
  int block_density = 0;          ///< one block of so many is shown; 0: three of four
  bool sinks = false;
  float dropout = 0.0f;
  Placement placement = Placement::kFull;
  std::vector<int> lens_q{}, lens_kv{};  ///< of the batch entries, at most len_q and len_kv, unless placement is kFull
  std::string name() const;
};

class AttentionCase {
 public:
  explicit AttentionCase(const CaseOptions& options);

  /// Arguments of the modified kernels beyond those of the plain ones.
  fa::ScoreParams score_params() const;
  fa::sm80::ForwardParams forward_params(const fa::sm80::ForwardVariant& variant);
  /// For the main kernel, with the workspace as the prepare kernel leaves it.
  fa::sm80::BackwardParams backward_params(const fa::sm80::BackwardVariant& variant);
  /// For the kernel that reads the lengths: tables in memory of the case, of tiles of so many queries or keys, and outputs to fill.
  fa::SequenceJob forward_job(int tile_rows);
  fa::SequenceJob backward_job(int key_rows, int query_rows);
  /// The same for the kernel of a deterministic grad_q.
  fa::sm80::BackwardParams grad_q_params(const fa::sm80::BackwardParams& main, const fa::sm80::GradQVariant& variant) const;

  void compare_forward() const;
  void compare_grad_kv() const;
  /// grad_q as the deterministic kernel writes it.
  void compare_grad_q() const;
  /// Arguments of the grad_bias kernel, which writes into the tensor given here.
  fa::sm80::GradBiasParams grad_bias_params(const fa::sm80::ModifiedBackwardParams& main, const fa::sm80::GradBiasVariant& variant,
                                            std::vector<uint32_t>* memory) const;
  void compare_grad_bias(const std::vector<uint32_t>& memory) const;
  void compare_grad_sinks(const std::vector<float>& actual) const;
  /// grad_q in the accumulator of the main kernel, in the order of its fragments.
  void compare_accumulator(const fa::sm80::BackwardVariant& variant) const;

 private:
  /// A place of a sequence along the sequence dimension of the tensors.
  struct Place {
    int batch, begin, end;  ///< places
    int first;              ///< used position of the first element
  };
  bool has_sequences() const { return options_.placement != Placement::kFull; }
  bool packed() const { return options_.placement >= Placement::kPacked; }
  int len_of(int b, bool of_q) const;
  Place place_of(int b, bool of_q) const;
  /// Position of element i of sequence b, or the row of the workspace of query i, per head.
  int position_of(int b, int i, bool of_q) const { return place_of(b, of_q).first + i; }
  int workspace_row(int b, int i) const;
  /// Moves the tensors from (sequence, element) to their places; what is used by none is NaN.
  void place_sequences();
  HalfTensor placed(const HalfTensor& tensor, bool of_q) const;
  /// What an output like the tensor must hold: 0 outside of all sequences.
  std::vector<double> expected_at_places(const std::vector<double>& expected, const HalfTensor& output, bool of_q) const;
  std::vector<double> expected_lse() const;
  fa::SequenceTableJob new_table(bool of_q, int tile_rows);

  HalfTensor random_tensor(int seq, int heads, int dim);
  void poison();
  /// Random tensors for the modifications that the options ask for.
  void make_modifications();
  Modifications reference_modifications() const;
  std::vector<double> expected_grad_bias() const;
  /// The gradient in memory, 32 or 16 bits each.
  std::vector<double> grad_bias_values(const std::vector<uint32_t>& memory) const;
  void fill_workspace(const fa::sm80::BackwardVariant& variant);

  CaseOptions options_;
  fa::Problem problem_;
  HalfTensor q_, k_, v_, grad_o_, o_, grad_q_, grad_k_, grad_v_;
  std::vector<float> lse_, lse_log2_, delta_, accumulator_;
  int64_t padded_rows_ = 0;
  fa::VariantArgs variant_args_;
  std::vector<float> slopes_, sinks_, bias_;
  std::vector<uint16_t> bias16_;
  std::vector<uint8_t> visible_, block_mask_;
  std::vector<int32_t> cu_q_, cu_kv_, used_q_, used_kv_;
  std::vector<std::vector<int32_t>> tables_;
  Reference expected_;
};

}  // namespace fa_test
