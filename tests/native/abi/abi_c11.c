/* The interface seen from C11: version handshake, names, constants, and that every struct is a plain C struct. */
#include <flash_attention/flash_attention.h>
#include <stdalign.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;

static void expect(int condition, const char* what) {
  if (!condition) {
    fprintf(stderr, "not true: %s\n", what);
    ++failures;
  }
}
#define EXPECT(condition) expect((condition), #condition)

/* Layouts that the ABI version promises, on every 64-bit machine. */
_Static_assert(sizeof(fa_device) == 8, "fa_device");
_Static_assert(sizeof(fa_tensor) == 80, "fa_tensor");
_Static_assert(offsetof(fa_tensor, sizes) == 8, "fa_tensor.sizes");
_Static_assert(offsetof(fa_tensor, strides) == 40, "fa_tensor.strides");
_Static_assert(offsetof(fa_tensor, dtype) == 72, "fa_tensor.dtype");
_Static_assert(offsetof(fa_forward_params, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(fa_backward_params, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(fa_attention_options, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(fa_describe_params, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(fa_plan_description, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(fa_device_info, struct_size) == 0, "struct_size comes first");
_Static_assert(alignof(fa_tensor) == 8, "alignment");
/* Ends of the structs of 0.1, after which fields were appended. */
_Static_assert(offsetof(fa_attention_options, window_left) == 24, "fa_attention_options of 0.1");
_Static_assert(offsetof(fa_backward_params, grad_bias) == 704, "fa_backward_params of 0.1");
_Static_assert(offsetof(fa_sequences, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(fa_dropout_mask_params, struct_size) == 0, "struct_size comes first");
_Static_assert(offsetof(fa_merge_params, struct_size) == 0, "struct_size comes first");

int main(void) {
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", FA_VERSION_MAJOR, FA_VERSION_MINOR, FA_VERSION_PATCH);
  EXPECT(strcmp(fa_version(), version) == 0);
  EXPECT(fa_abi_version() == FA_ABI_VERSION);
  EXPECT(strlen(fa_build_info()) > 0);
  EXPECT(strchr(fa_build_info(), '\n') == NULL);

  EXPECT(strcmp(fa_status_name(FA_STATUS_OK), "FA_STATUS_OK") == 0);
  EXPECT(strcmp(fa_status_name(FA_STATUS_INTERNAL_ERROR), "FA_STATUS_INTERNAL_ERROR") == 0);
  EXPECT(strcmp(fa_status_name(12345), "FA_STATUS_UNKNOWN") == 0);
  EXPECT(strcmp(fa_status_name(-1), "FA_STATUS_UNKNOWN") == 0);

  /* No failure so far on this thread; a null argument is refused by name. */
  EXPECT(strcmp(fa_last_error_message(), "") == 0);
  EXPECT(fa_device_count(FA_DEVICE_CPU, NULL) == FA_STATUS_INVALID_ARGUMENT);
  EXPECT(strstr(fa_last_error_message(), "out_count") != NULL);
  EXPECT(fa_attention_forward(NULL) == FA_STATUS_INVALID_ARGUMENT);
  EXPECT(strstr(fa_last_error_message(), "params") != NULL);

  /* One CPU, and CUDA may be absent without being an error. */
  int32_t count = -1;
  EXPECT(fa_device_count(FA_DEVICE_CPU, &count) == FA_STATUS_OK && count == 1);
  count = -1;
  EXPECT(fa_device_count(FA_DEVICE_CUDA, &count) == FA_STATUS_OK && count >= 0);

  if (failures == 0) printf("%s\n", fa_build_info());
  return failures == 0 ? 0 : 1;
}
