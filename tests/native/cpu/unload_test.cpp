// Loads the library, computes on several threads and unloads it, again and again: its threads must end with it. Usage: cpu_unload_test <library>
#include <dlfcn.h>

#include <cstdio>
#include <vector>

#include "flash_attention/flash_attention.h"

namespace {

template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(dlsym(library, name));
}

bool compute(void* library) {
  auto* const set_threads = symbol<decltype(fa_cpu_set_num_threads)>(library, "fa_cpu_set_num_threads");
  auto* const workspace_size = symbol<decltype(fa_attention_forward_workspace_size)>(library, "fa_attention_forward_workspace_size");
  auto* const forward = symbol<decltype(fa_attention_forward)>(library, "fa_attention_forward");
  if (set_threads == nullptr || workspace_size == nullptr || forward == nullptr) return false;
  constexpr int64_t kLength = 512, kDim = 32;
  std::vector<float> values(kLength * kDim, 0.25f), out(kLength * kDim, -1.0f);
  const fa_tensor input{values.data(), {1, kLength, 1, kDim}, {kLength * kDim, kDim, kDim, 1}, FA_DTYPE_FLOAT32, 0};
  fa_forward_params params{};
  params.struct_size = sizeof(params);
  params.q = params.k = params.v = params.o = input;
  params.o.data = out.data();
  if (set_threads(4) != FA_STATUS_OK || workspace_size(&params, &params.workspace_bytes) != FA_STATUS_OK) return false;
  std::vector<double> workspace(params.workspace_bytes / 8 + 4);
  params.workspace = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 15) / 16 * 16);
  if (forward(&params) != FA_STATUS_OK) return false;
  for (const float value : out)
    if (!(value > 0.2499f && value < 0.2501f)) return false;
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  for (int i = 0; i < 20; ++i) {
    void* const library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
    if (!compute(library)) {
      std::fprintf(stderr, "round %d: the computation failed\n", i);
      return 1;
    }
    if (dlclose(library) != 0) return 1;
  }
  std::puts("20 rounds");
  return 0;
}
