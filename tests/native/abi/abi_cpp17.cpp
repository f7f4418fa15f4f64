// The interface seen from C++17: every struct is a plain C struct, every function is noexcept, calls link with C linkage.
#include <flash_attention/flash_attention.h>

#include <type_traits>

template <typename T>
constexpr bool kPlain = std::is_standard_layout_v<T>&& std::is_trivial_v<T>;

static_assert(kPlain<fa_device> && kPlain<fa_tensor> && kPlain<fa_device_info> && kPlain<fa_attention_options> && kPlain<fa_forward_params> &&
              kPlain<fa_backward_params> && kPlain<fa_describe_params> && kPlain<fa_plan_description>);
static_assert(noexcept(fa_attention_forward(nullptr)) && noexcept(fa_attention_backward(nullptr)) && noexcept(fa_version()));
static_assert(std::is_same_v<decltype(fa_attention_forward(nullptr)), fa_status>);

int main() {
  fa_device_info info{};
  info.struct_size = sizeof info;
  const fa_device cpu{FA_DEVICE_CPU, 0};
  if (fa_device_get_info(cpu, &info) != FA_STATUS_OK || info.name[0] == '\0' || info.multiprocessor_count < 1) return 1;
  int threads = 0;
  return fa_cpu_get_num_threads(&threads) == FA_STATUS_OK && threads == info.multiprocessor_count ? 0 : 1;
}
