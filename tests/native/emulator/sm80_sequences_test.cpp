// The kernels compiled with ModifiedScores over sequences of different lengths, packed, padded and left-padded, with every mask, forward and backward. Places
// that belong to no sequence hold NaN, and so do neighbouring sequences in some cases: nothing of that may be read, and the outputs there must be 0.
#include <gtest/gtest.h>

#include <exception>
#include <vector>

#include "attention/sequence_schedule.cuh"
#include "modified_kernels.h"

namespace fa_test {
namespace {

using fa::Mask;

void read_sequences(const fa::SequenceJob& job) {
  using Config = fa::SequenceScheduleConfig;
  for (int block = 0; block < fa::sequence_schedule_blocks(job); ++block) {
    emulator::run_block(block, Config::kThreads, sizeof(Config::Shared),
                        [&] { fa::SequenceScheduleBlock<Config>(job, *reinterpret_cast<Config::Shared*>(emulator::shared_memory())).run(); });
  }
}

/// As launch.cu of the kernels does it.
template <class Config, template <class> class Block, class Params>
void run_over(const fa::SequenceTable& table, Params params, int heads, size_t more_bytes = 0) {
  params.sequences = table;
  params.order = {table.capacity, /*batch=*/1, heads, /*section_heads=*/2};
  launch_blocks<Config, Block>(params, more_bytes);
}

template <class Kernels>
void check(const CaseOptions& options) {
  using namespace fa::sm80;
  SCOPED_TRACE(options.name());
  try {
    AttentionCase attention(options);
    const fa::ScoreParams scores = attention.score_params();
    const fa::SequenceJob job = attention.forward_job(Kernels::kForward.tile_q);
    read_sequences(job);
    ModifiedForwardParams forward_params{attention.forward_params(Kernels::kForward), scores, {}, options.mask == Mask::kCausalBottomRight};
    EXPECT_EQ(options.stage_bias, scores.bias_staged);
    using Forward = typename Kernels::Forward;
    run_over<Forward, ForwardBlock>(job.tables[0].table, forward_params, options.heads_q, staged_bytes<Forward>(scores));
    attention.compare_forward();

    fa::SequenceJob backward_job = attention.backward_job(Kernels::kBackward.tile_kv, kGradQRows);
    std::vector<fa::SequenceTile> by_number(static_cast<size_t>(options.batch));
    backward_job.by_number = by_number.data();
    read_sequences(backward_job);
    const BackwardParams params = attention.backward_params(Kernels::kBackward);
    using Backward = typename Kernels::Backward;
    run_over<Backward, BackwardBlock>(backward_job.tables[0].table, ModifiedBackwardParams{params, scores, nullptr, 0, 0, {}}, options.heads_kv,
                                      staged_bytes<Backward>(scores, Backward::kStages));
    attention.compare_grad_kv();
    if (options.deterministic) {
      run_over<typename Kernels::GradQ, GradQBlock>(
          backward_job.tables[1].table, ModifiedBackwardParams{attention.grad_q_params(params, Kernels::kGradQ), scores, nullptr, 0, 0, {}}, options.heads_q);
      attention.compare_grad_q();
    } else {
      attention.compare_accumulator(Kernels::kBackward);
    }
    if (options.bias > 0) {
      std::vector<uint32_t> memory;
      GradBiasParams bias = attention.grad_bias_params({params, scores, nullptr, options.batch, 0, {}}, Kernels::kGradBias, &memory);
      bias.sequences_by_number = by_number.data();
      using GradBias = typename Kernels::GradBias;
      launch_blocks<GradBias, GradBiasBlock>(bias, staged_bytes<GradBias>(scores));
      attention.compare_grad_bias(memory);
    }
    if (options.sinks) check_grad_sinks(attention, {params, scores, nullptr, 1, params.padded_rows, {}});
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
}

constexpr auto check_d64 = check<KernelsD64>;
constexpr auto check_d128 = check<KernelsD128>;
constexpr auto check_d256 = check<KernelsD256>;
constexpr auto check_d256_small = check<SmallKernelsD256>;

/// Longer than a tile, empty on one side or on both, one element; queries and keys differ.
CaseOptions sequences(Placement placement) {
  CaseOptions options{.batch = 6, .len_q = 170, .len_kv = 160, .heads_q = 2, .heads_kv = 1, .head_dim = 40, .head_dim_v = 32};
  options.placement = placement;
  options.lens_q = {64, 0, 150, 5, 1, 0};
  options.lens_kv = {70, 20, 131, 0, 150, 0};
  return options;
}

class Sm80Sequences : public ::testing::TestWithParam<Placement> {};

TEST_P(Sm80Sequences, AnyLengths) {
  for (const bool deterministic : {false, true}) {
    CaseOptions options = sequences(GetParam());
    options.deterministic = deterministic;
    check_d64(options);
    options.aligned = false;
    options.mask = Mask::kCausalBottomRight;
    check_d64(options);
  }
}

TEST_P(Sm80Sequences, Masks) {
  for (const Mask mask : {Mask::kCausalTopLeft, Mask::kWindowTopLeft, Mask::kWindowBottomRight}) {
    CaseOptions options = sequences(GetParam());
    options.mask = mask;
    options.deterministic = mask == Mask::kWindowTopLeft;
    if (mask != Mask::kCausalTopLeft) {
      options.window_left = 30;
      options.window_right = mask == Mask::kWindowTopLeft ? 0 : 20;
    }
    check_d64(options);
    options.mask = mask == Mask::kCausalTopLeft ? Mask::kNone : mask;
    options.chunk = 40;
    check_d64(options);
  }
}

/// Everything at once, for every configuration.
TEST_P(Sm80Sequences, Together) {
  CaseOptions options = with_everything(sequences(GetParam()));
  for (const bool deterministic : {false, true}) {
    options.deterministic = deterministic;
    options.head_dim = options.head_dim_v = 64;
    check_d64(options);
    options.batch = 3;
    options.head_dim = 128;
    options.head_dim_v = 104;
    check_d128(options);
    options.head_dim = options.head_dim_v = 256;
    deterministic ? check_d256_small(options) : check_d256(options);
  }
}

/// The gradient of a bias that sequences share, or have of their own.
TEST_P(Sm80Sequences, Bias) {
  for (const int kind : {1, 2, 3, 4}) {
    CaseOptions options = sequences(GetParam());
    options.bias = kind;
    options.mask = kind == 2 ? Mask::kNone : Mask::kCausalBottomRight;
    options.block_mask = kind == 3 ? 64 : 0;
    options.visible = kind == 4 ? 1 : 0;
    check_d64(options);
  }
}

/// A bias of 16 bits that travels through shared memory.
TEST_P(Sm80Sequences, StagedBias) {
  CaseOptions options = sequences(GetParam());
  options.len_kv = 160;  // a multiple of 8, and room for the unused places of the longest
  options.bias = 5;
  options.stage_bias = true;
  options.mask = Mask::kCausalBottomRight;
  check_d64(options);
  options.head_dim = 128;
  check_d128(options);
}

/// NaN in one sequence reaches no other one.
TEST_P(Sm80Sequences, NonFiniteStaysWhereItIs) {
  for (const Poisoned poisoned : {Poisoned::kQ, Poisoned::kK, Poisoned::kV, Poisoned::kGradO}) {
    CaseOptions options = sequences(GetParam());
    options.poisoned = poisoned;
    options.poisoned_row = 66;
    options.mask = Mask::kCausalBottomRight;
    options.deterministic = poisoned == Poisoned::kK;
    check_d64(options);
  }
}

INSTANTIATE_TEST_SUITE_P(Placements, Sm80Sequences,
                         ::testing::Values(Placement::kPadded, Placement::kLeftPadded, Placement::kPacked, Placement::kPackedWithGaps,
                                           Placement::kPackedLeftPadded));

}  // namespace
}  // namespace fa_test
