/* A C11 consumer: causal grouped-query attention of a small fp32 problem on the CPU, checked against the definition in double. */
#include <flash_attention/flash_attention.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { kBatch = 2, kLenQ = 5, kLenKv = 7, kHeadsQ = 4, kHeadsKv = 2, kDim = 9, kDimV = 3 };

static float q[kBatch][kLenQ][kHeadsQ][kDim];
static float k[kBatch][kLenKv][kHeadsKv][kDim];
static float v[kBatch][kLenKv][kHeadsKv][kDimV];
static float o[kBatch][kLenQ][kHeadsQ][kDimV];
static float lse[kBatch][kHeadsQ][kLenQ];

/* Uniform in [-1, 1), the same on every machine. */
static void fill(float* values, size_t count, uint32_t seed) {
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
  }
}

static fa_tensor tensor(void* data, int64_t length, int64_t heads, int64_t dim) {
  fa_tensor t;
  memset(&t, 0, sizeof t);
  t.data = data;
  t.dtype = FA_DTYPE_FLOAT32;
  t.sizes[0] = kBatch;
  t.sizes[1] = length;
  t.sizes[2] = heads;
  t.sizes[3] = dim;
  t.strides[0] = length * heads * dim;
  t.strides[1] = heads * dim;
  t.strides[2] = dim;
  t.strides[3] = 1;
  return t;
}

/* Largest difference to the definition; bottom-right causal. NaN counts as infinite. */
static double worst_error(void) {
  double worst = 0.0;
  for (int b = 0; b < kBatch; ++b) {
    for (int h = 0; h < kHeadsQ; ++h) {
      int g = h / (kHeadsQ / kHeadsKv);
      for (int i = 0; i < kLenQ; ++i) {
        double weight[kLenKv];
        double sum = 0.0;
        int visible = i + kLenKv - kLenQ + 1;
        for (int j = 0; j < visible; ++j) {
          double dot = 0.0;
          for (int c = 0; c < kDim; ++c) dot += (double)q[b][i][h][c] * k[b][j][g][c];
          weight[j] = exp(dot / sqrt((double)kDim));
          sum += weight[j];
        }
        double difference = fabs(log(sum) - lse[b][h][i]);
        if (!(difference <= worst)) worst = isnan(difference) ? INFINITY : difference;
        for (int c = 0; c < kDimV; ++c) {
          double expected = 0.0;
          for (int j = 0; j < visible; ++j) expected += weight[j] / sum * v[b][j][g][c];
          difference = fabs(expected - o[b][i][h][c]);
          if (!(difference <= worst)) worst = isnan(difference) ? INFINITY : difference;
        }
      }
    }
  }
  return worst;
}

static int failed(const char* call, fa_status status) {
  fprintf(stderr, "%s: %s: %s\n", call, fa_status_name(status), fa_last_error_message());
  return 1;
}

int main(void) {
  if (fa_abi_version() != FA_ABI_VERSION) {
    fprintf(stderr, "header says ABI %d, library says %d\n", FA_ABI_VERSION, (int)fa_abi_version());
    return 1;
  }
  fill(&q[0][0][0][0], sizeof q / sizeof(float), 1);
  fill(&k[0][0][0][0], sizeof k / sizeof(float), 2);
  fill(&v[0][0][0][0], sizeof v / sizeof(float), 3);
  for (size_t i = 0; i < sizeof o / sizeof(float); ++i) (&o[0][0][0][0])[i] = NAN;

  fa_attention_options options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.mask = FA_MASK_CAUSAL_BOTTOM_RIGHT;

  fa_forward_params params;
  memset(&params, 0, sizeof params);
  params.struct_size = sizeof params;
  params.device.type = FA_DEVICE_CPU;
  params.q = tensor(q, kLenQ, kHeadsQ, kDim);
  params.k = tensor(k, kLenKv, kHeadsKv, kDim);
  params.v = tensor(v, kLenKv, kHeadsKv, kDimV);
  params.o = tensor(o, kLenQ, kHeadsQ, kDimV);
  params.lse = &lse[0][0][0];
  params.options = &options;

  fa_status status = fa_attention_forward_workspace_size(&params, &params.workspace_bytes);
  if (status != FA_STATUS_OK) return failed("fa_attention_forward_workspace_size", status);
  void* scratch = NULL;
  status = fa_memory_allocate(params.device, params.workspace_bytes, &scratch);
  if (status != FA_STATUS_OK) return failed("fa_memory_allocate", status);
  params.workspace = scratch;
  status = fa_attention_forward(&params);
  if (status != FA_STATUS_OK) return failed("fa_attention_forward", status);
  status = fa_memory_free(params.device, scratch);
  if (status != FA_STATUS_OK) return failed("fa_memory_free", status);

  double error = worst_error();
  printf("flash_attention %s from C: largest error %.3g\n", fa_version(), error);
  if (!(error <= 1e-5)) return 1;

  /* A wrong call is refused with a message and nothing happens. */
  params.k.sizes[2] = 3;
  if (fa_attention_forward(&params) != FA_STATUS_INVALID_ARGUMENT || fa_last_error_message()[0] == '\0') {
    fprintf(stderr, "4 query heads over 3 key heads were not refused\n");
    return 1;
  }
  return 0;
}
