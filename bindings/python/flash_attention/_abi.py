"""ctypes declarations made from flash_attention/flash_attention.h by bindings/generator. Do not edit: change the header and generate again."""

import ctypes

FA_VERSION_MAJOR = 0
FA_VERSION_MINOR = 2
FA_VERSION_PATCH = 0
FA_ABI_VERSION = 1
FA_TENSOR_RANK = 4
FA_MERGE_MAX_PARTS = 16

# fa_status
FA_STATUS_OK = 0
FA_STATUS_INVALID_ARGUMENT = 1
FA_STATUS_UNSUPPORTED = 2
FA_STATUS_WORKSPACE_TOO_SMALL = 3
FA_STATUS_OUT_OF_MEMORY = 4
FA_STATUS_DEVICE_UNAVAILABLE = 5
FA_STATUS_DEVICE_ERROR = 6
FA_STATUS_INTERNAL_ERROR = 7

# fa_dtype
FA_DTYPE_FLOAT32 = 0
FA_DTYPE_FLOAT16 = 1
FA_DTYPE_BFLOAT16 = 2
FA_DTYPE_UINT8 = 3

# fa_device_type
FA_DEVICE_CPU = 0
FA_DEVICE_CUDA = 1

# fa_mask
FA_MASK_NONE = 0
FA_MASK_CAUSAL_TOP_LEFT = 1
FA_MASK_CAUSAL_BOTTOM_RIGHT = 2
FA_MASK_WINDOW_TOP_LEFT = 3
FA_MASK_WINDOW_BOTTOM_RIGHT = 4

# fa_pass
FA_PASS_FORWARD = 0
FA_PASS_BACKWARD = 1

# fa_kernel
FA_KERNEL_AUTO = 0
FA_KERNEL_CPU = 1
FA_KERNEL_SM80 = 2
FA_KERNEL_SM90 = 3


class fa_device(ctypes.Structure):
    """A device: where the pointers of a call live and where it is computed."""

    _fields_ = [
        ("type", ctypes.c_int32),
        ("index", ctypes.c_int32),
    ]


class fa_tensor(ctypes.Structure):
    """A strided view of memory on the call's device, logically (batch, sequence, heads, head_dim). This layout never grows."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


class fa_sequences(ctypes.Structure):
    """Sequences of different lengths in one call: packed one behind the other, or one per batch entry with unused positions. Positions i and j, len_q and len_kv of the semantics above, and the rows and columns of bias, visible and block_mask, then count within a sequence, and batch means the sequence: packed, the extents of those tensors are count, max_len_q and max_len_kv. A position of k and v that belongs to no sequence is a key that no query sees. The lengths are read on the device: nothing waits for them. On the CPU values out of range are refused; on CUDA they are clamped, so that nothing outside the tensors is touched. A position of q that belongs to no sequence gets o = 0 and lse = -infinity, sinks or not, and nothing there is read into a gradient."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("left_padded", ctypes.c_int32),
        ("count", ctypes.c_int64),
        ("cu_seqlens_q", ctypes.POINTER(ctypes.c_int32)),
        ("cu_seqlens_kv", ctypes.POINTER(ctypes.c_int32)),
        ("seqused_q", ctypes.POINTER(ctypes.c_int32)),
        ("seqused_kv", ctypes.POINTER(ctypes.c_int32)),
        ("max_len_q", ctypes.c_int64),
        ("max_len_kv", ctypes.c_int64),
    ]


class fa_attention_options(ctypes.Structure):
    """How to compute. All-zero fields after struct_size are the defaults; a NULL pointer to this struct means the same."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("mask", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("deterministic", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("window_left", ctypes.c_int64),
        ("window_right", ctypes.c_int64),
        ("chunk", ctypes.c_int64),
        ("softcap", ctypes.c_float),
        ("dropout", ctypes.c_float),
        ("dropout_seed", ctypes.c_uint64),
        ("dropout_offset", ctypes.c_uint32),
        ("block_q", ctypes.c_int32),
        ("block_kv", ctypes.c_int32),
        ("reserved2", ctypes.c_int32),
        ("alibi_slopes", ctypes.POINTER(ctypes.c_float)),
        ("alibi_batch_stride", ctypes.c_int64),
        ("sinks", ctypes.POINTER(ctypes.c_float)),
        ("bias", ctypes.POINTER(fa_tensor)),
        ("visible", ctypes.POINTER(fa_tensor)),
        ("block_mask", ctypes.POINTER(fa_tensor)),
        ("sequences", ctypes.POINTER(fa_sequences)),
    ]


class fa_forward_params(ctypes.Structure):
    """Arguments of the forward pass."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
        ("device", fa_device),
        ("q", fa_tensor),
        ("k", fa_tensor),
        ("v", fa_tensor),
        ("o", fa_tensor),
        ("lse", ctypes.POINTER(ctypes.c_float)),
        ("options", ctypes.POINTER(fa_attention_options)),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
        ("stream", ctypes.c_void_p),
    ]


class fa_backward_params(ctypes.Structure):
    """Arguments of the backward pass: from q, k, v, o, lse of the forward pass and the gradient of o to the gradients of q, k and v."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
        ("device", fa_device),
        ("q", fa_tensor),
        ("k", fa_tensor),
        ("v", fa_tensor),
        ("o", fa_tensor),
        ("grad_o", fa_tensor),
        ("grad_q", fa_tensor),
        ("grad_k", fa_tensor),
        ("grad_v", fa_tensor),
        ("lse", ctypes.POINTER(ctypes.c_float)),
        ("grad_lse", ctypes.POINTER(ctypes.c_float)),
        ("options", ctypes.POINTER(fa_attention_options)),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_uint64),
        ("stream", ctypes.c_void_p),
        ("grad_bias", fa_tensor),
        ("grad_sinks", ctypes.POINTER(ctypes.c_float)),
    ]


class fa_dropout_mask_params(ctypes.Structure):
    """Arguments of fa_attention_dropout_mask."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("dropout", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("offset", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
        ("device", fa_device),
        ("out", fa_tensor),
        ("stream", ctypes.c_void_p),
    ]


class fa_merge_params(ctypes.Structure):
    """Arguments of fa_attention_merge and fa_attention_merge_backward: attention over disjoint sets of keys, computed apart, put together."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("parts", ctypes.c_int32),
        ("device", fa_device),
        ("part_o", fa_tensor * 16),
        ("part_lse", ctypes.POINTER(ctypes.c_float) * 16),
        ("o", fa_tensor),
        ("lse", ctypes.POINTER(ctypes.c_float)),
        ("grad_o", fa_tensor),
        ("grad_lse", ctypes.POINTER(ctypes.c_float)),
        ("grad_part_o", fa_tensor * 16),
        ("grad_part_lse", ctypes.POINTER(ctypes.c_float) * 16),
        ("stream", ctypes.c_void_p),
    ]


class fa_describe_params(ctypes.Structure):
    """What to describe: a problem, and the device (real or assumed) to plan for."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("pass", ctypes.c_int32),
        ("device", fa_device),
        ("q", fa_tensor),
        ("k", fa_tensor),
        ("v", fa_tensor),
        ("options", ctypes.POINTER(fa_attention_options)),
        ("assumed_compute_capability", ctypes.c_int32),
        ("assumed_multiprocessor_count", ctypes.c_int32),
    ]


class fa_plan_description(ctypes.Structure):
    """What would run for a problem."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("kernel", ctypes.c_int32),
        ("tile_q", ctypes.c_int32),
        ("tile_kv", ctypes.c_int32),
        ("stages", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("registers_per_thread", ctypes.c_int32),
        ("launches", ctypes.c_int32),
        ("blocks", ctypes.c_int64),
        ("shared_memory_bytes", ctypes.c_uint64),
        ("workspace_bytes", ctypes.c_uint64),
        ("flops", ctypes.c_double),
        ("exponentials", ctypes.c_double),
        ("minimum_bytes", ctypes.c_double),
        ("tiled_bytes", ctypes.c_double),
        ("unfused_bytes", ctypes.c_double),
        ("unfused_scratch_bytes", ctypes.c_double),
        ("kernel_name", ctypes.c_char * 64),
        ("reason", ctypes.c_char * 256),
    ]


class fa_device_info(ctypes.Structure):
    """What a device is and can do."""

    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("compute_capability_major", ctypes.c_int32),
        ("compute_capability_minor", ctypes.c_int32),
        ("multiprocessor_count", ctypes.c_int32),
        ("total_memory_bytes", ctypes.c_uint64),
        ("l2_cache_bytes", ctypes.c_uint64),
        ("shared_memory_per_block_bytes", ctypes.c_uint64),
        ("driver_version", ctypes.c_int32),
        ("clock_khz", ctypes.c_int32),
        ("name", ctypes.c_char * 128),
    ]


def declare(library):
    """Declares the result and the parameters of every function on a loaded library."""
    # const char* fa_status_name(fa_status status)
    library.fa_status_name.restype = ctypes.c_char_p
    library.fa_status_name.argtypes = [ctypes.c_int32]
    # const char* fa_last_error_message(void)
    library.fa_last_error_message.restype = ctypes.c_char_p
    library.fa_last_error_message.argtypes = []
    # const char* fa_version(void)
    library.fa_version.restype = ctypes.c_char_p
    library.fa_version.argtypes = []
    # int32_t fa_abi_version(void)
    library.fa_abi_version.restype = ctypes.c_int32
    library.fa_abi_version.argtypes = []
    # const char* fa_build_info(void)
    library.fa_build_info.restype = ctypes.c_char_p
    library.fa_build_info.argtypes = []
    # fa_status fa_attention_forward(const fa_forward_params* params)
    library.fa_attention_forward.restype = ctypes.c_int32
    library.fa_attention_forward.argtypes = [ctypes.POINTER(fa_forward_params)]
    # fa_status fa_attention_forward_workspace_size(const fa_forward_params* params, uint64_t* out_bytes)
    library.fa_attention_forward_workspace_size.restype = ctypes.c_int32
    library.fa_attention_forward_workspace_size.argtypes = [ctypes.POINTER(fa_forward_params), ctypes.POINTER(ctypes.c_uint64)]
    # fa_status fa_attention_backward(const fa_backward_params* params)
    library.fa_attention_backward.restype = ctypes.c_int32
    library.fa_attention_backward.argtypes = [ctypes.POINTER(fa_backward_params)]
    # fa_status fa_attention_backward_workspace_size(const fa_backward_params* params, uint64_t* out_bytes)
    library.fa_attention_backward_workspace_size.restype = ctypes.c_int32
    library.fa_attention_backward_workspace_size.argtypes = [ctypes.POINTER(fa_backward_params), ctypes.POINTER(ctypes.c_uint64)]
    # fa_status fa_attention_dropout_mask(const fa_dropout_mask_params* params)
    library.fa_attention_dropout_mask.restype = ctypes.c_int32
    library.fa_attention_dropout_mask.argtypes = [ctypes.POINTER(fa_dropout_mask_params)]
    # fa_status fa_attention_merge(const fa_merge_params* params)
    library.fa_attention_merge.restype = ctypes.c_int32
    library.fa_attention_merge.argtypes = [ctypes.POINTER(fa_merge_params)]
    # fa_status fa_attention_merge_backward(const fa_merge_params* params)
    library.fa_attention_merge_backward.restype = ctypes.c_int32
    library.fa_attention_merge_backward.argtypes = [ctypes.POINTER(fa_merge_params)]
    # fa_status fa_attention_describe(const fa_describe_params* params, fa_plan_description* description)
    library.fa_attention_describe.restype = ctypes.c_int32
    library.fa_attention_describe.argtypes = [ctypes.POINTER(fa_describe_params), ctypes.POINTER(fa_plan_description)]
    # fa_status fa_device_count(fa_device_type type, int32_t* out_count)
    library.fa_device_count.restype = ctypes.c_int32
    library.fa_device_count.argtypes = [ctypes.c_int32, ctypes.POINTER(ctypes.c_int32)]
    # fa_status fa_device_get_info(fa_device device, fa_device_info* info)
    library.fa_device_get_info.restype = ctypes.c_int32
    library.fa_device_get_info.argtypes = [fa_device, ctypes.POINTER(fa_device_info)]
    # fa_status fa_device_synchronize(fa_device device)
    library.fa_device_synchronize.restype = ctypes.c_int32
    library.fa_device_synchronize.argtypes = [fa_device]
    # fa_status fa_cpu_set_num_threads(int32_t num_threads)
    library.fa_cpu_set_num_threads.restype = ctypes.c_int32
    library.fa_cpu_set_num_threads.argtypes = [ctypes.c_int32]
    # fa_status fa_cpu_get_num_threads(int32_t* out_num_threads)
    library.fa_cpu_get_num_threads.restype = ctypes.c_int32
    library.fa_cpu_get_num_threads.argtypes = [ctypes.POINTER(ctypes.c_int32)]
    # fa_status fa_memory_allocate(fa_device device, uint64_t size_bytes, void** out_pointer)
    library.fa_memory_allocate.restype = ctypes.c_int32
    library.fa_memory_allocate.argtypes = [fa_device, ctypes.c_uint64, ctypes.POINTER(ctypes.c_void_p)]
    # fa_status fa_memory_allocate_host(uint64_t size_bytes, void** out_pointer)
    library.fa_memory_allocate_host.restype = ctypes.c_int32
    library.fa_memory_allocate_host.argtypes = [ctypes.c_uint64, ctypes.POINTER(ctypes.c_void_p)]
    # fa_status fa_memory_free(fa_device device, void* pointer)
    library.fa_memory_free.restype = ctypes.c_int32
    library.fa_memory_free.argtypes = [fa_device, ctypes.c_void_p]
    # fa_status fa_memory_free_host(void* pointer)
    library.fa_memory_free_host.restype = ctypes.c_int32
    library.fa_memory_free_host.argtypes = [ctypes.c_void_p]
    # fa_status fa_memory_copy(fa_device destination_device, void* destination, fa_device source_device, const void* source, uint64_t size_bytes, fa_stream stream)
    library.fa_memory_copy.restype = ctypes.c_int32
    library.fa_memory_copy.argtypes = [fa_device, ctypes.c_void_p, fa_device, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p]
    # fa_status fa_memory_set(fa_device device, void* destination, int32_t value, uint64_t size_bytes, fa_stream stream)
    library.fa_memory_set.restype = ctypes.c_int32
    library.fa_memory_set.argtypes = [fa_device, ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint64, ctypes.c_void_p]
    # fa_status fa_stream_create(fa_device device, fa_stream* out_stream)
    library.fa_stream_create.restype = ctypes.c_int32
    library.fa_stream_create.argtypes = [fa_device, ctypes.POINTER(ctypes.c_void_p)]
    # fa_status fa_stream_destroy(fa_device device, fa_stream stream)
    library.fa_stream_destroy.restype = ctypes.c_int32
    library.fa_stream_destroy.argtypes = [fa_device, ctypes.c_void_p]
    # fa_status fa_stream_synchronize(fa_device device, fa_stream stream)
    library.fa_stream_synchronize.restype = ctypes.c_int32
    library.fa_stream_synchronize.argtypes = [fa_device, ctypes.c_void_p]
    # fa_status fa_event_create(fa_device device, fa_event* out_event)
    library.fa_event_create.restype = ctypes.c_int32
    library.fa_event_create.argtypes = [fa_device, ctypes.POINTER(ctypes.c_void_p)]
    # fa_status fa_event_destroy(fa_event event)
    library.fa_event_destroy.restype = ctypes.c_int32
    library.fa_event_destroy.argtypes = [ctypes.c_void_p]
    # fa_status fa_event_record(fa_event event, fa_stream stream)
    library.fa_event_record.restype = ctypes.c_int32
    library.fa_event_record.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    # fa_status fa_stream_wait_event(fa_device device, fa_stream stream, fa_event event)
    library.fa_stream_wait_event.restype = ctypes.c_int32
    library.fa_stream_wait_event.argtypes = [fa_device, ctypes.c_void_p, ctypes.c_void_p]
    # fa_status fa_event_query(fa_event event, int32_t* out_complete)
    library.fa_event_query.restype = ctypes.c_int32
    library.fa_event_query.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32)]
    # fa_status fa_event_synchronize(fa_event event)
    library.fa_event_synchronize.restype = ctypes.c_int32
    library.fa_event_synchronize.argtypes = [ctypes.c_void_p]
    # fa_status fa_event_elapsed_ms(fa_event start, fa_event end, float* out_milliseconds)
    library.fa_event_elapsed_ms.restype = ctypes.c_int32
    library.fa_event_elapsed_ms.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)]
    # fa_status fa_stream_begin_capture(fa_device device, fa_stream stream)
    library.fa_stream_begin_capture.restype = ctypes.c_int32
    library.fa_stream_begin_capture.argtypes = [fa_device, ctypes.c_void_p]
    # fa_status fa_stream_end_capture(fa_device device, fa_stream stream, fa_graph* out_graph)
    library.fa_stream_end_capture.restype = ctypes.c_int32
    library.fa_stream_end_capture.argtypes = [fa_device, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    # fa_status fa_graph_launch(fa_graph graph, fa_stream stream)
    library.fa_graph_launch.restype = ctypes.c_int32
    library.fa_graph_launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    # fa_status fa_graph_destroy(fa_graph graph)
    library.fa_graph_destroy.restype = ctypes.c_int32
    library.fa_graph_destroy.argtypes = [ctypes.c_void_p]
