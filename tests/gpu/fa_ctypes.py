"""The C ABI seen from PyTorch on a GPU machine, as thin as it can be: for the GPU checks and benchmarks only. The binding for users is bindings/python.

Tensors are torch tensors of logical shape (batch, sequence, heads, head_dim) with any strides.
"""
import ctypes as c
import os

import torch

MASKS = {"none": 0, "top_left": 1, "bottom_right": 2}
KERNELS = {"auto": 0, "cpu": 1, "sm80": 2, "sm90": 3}
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Device(c.Structure):
    _fields_ = [("type", c.c_int32), ("index", c.c_int32)]


class Tensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("sizes", c.c_int64 * 4), ("strides", c.c_int64 * 4), ("dtype", c.c_int32), ("reserved", c.c_int32)]


class Options(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("mask", c.c_int32), ("scale", c.c_float), ("deterministic", c.c_int32), ("kernel", c.c_int32),
                ("reserved", c.c_int32)]


class Forward(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("reserved", c.c_int32), ("device", Device), ("q", Tensor), ("k", Tensor), ("v", Tensor), ("o", Tensor),
                ("lse", c.c_void_p), ("options", c.POINTER(Options)), ("workspace", c.c_void_p), ("workspace_bytes", c.c_uint64), ("stream", c.c_void_p)]


class Backward(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("reserved", c.c_int32), ("device", Device), ("q", Tensor), ("k", Tensor), ("v", Tensor), ("o", Tensor),
                ("grad_o", Tensor), ("grad_q", Tensor), ("grad_k", Tensor), ("grad_v", Tensor), ("lse", c.c_void_p), ("grad_lse", c.c_void_p),
                ("options", c.POINTER(Options)), ("workspace", c.c_void_p), ("workspace_bytes", c.c_uint64), ("stream", c.c_void_p)]


def view(t):
    return Tensor(t.data_ptr(), (c.c_int64 * 4)(*t.shape), (c.c_int64 * 4)(*t.stride()), DTYPES[t.dtype], 0)


class Library:
    def __init__(self, path=None):
        self.lib = c.CDLL(path or os.environ["FLASH_ATTENTION_LIBRARY"])
        self.lib.fa_last_error_message.restype = c.c_char_p
        self.lib.fa_build_info.restype = c.c_char_p

    def build_info(self):
        return self.lib.fa_build_info().decode()

    def _check(self, status):
        if status != 0:
            raise RuntimeError(f"status {status}: {self.lib.fa_last_error_message().decode()}")

    def _prepare(self, params, size_function, mask, scale, deterministic, kernel, device, workspace):
        options = Options(c.sizeof(Options), MASKS[mask], scale, int(deterministic), KERNELS[kernel], 0)
        params.struct_size = c.sizeof(params)
        params.device = Device(1, device.index or 0)
        params.options = c.pointer(options)
        params.stream = torch.cuda.current_stream(device).cuda_stream
        size = c.c_uint64()
        self._check(size_function(c.byref(params), c.byref(size)))
        if workspace is None or workspace.numel() < size.value:
            workspace = torch.empty(size.value, dtype=torch.uint8, device=device)
        params.workspace = workspace.data_ptr() if size.value else None
        params.workspace_bytes = size.value
        return options, workspace

    def forward_call(self, q, k, v, o, lse, mask="none", scale=0.0, kernel="auto"):
        """A function that queues the forward pass on the stream current now."""
        params = Forward(q=view(q), k=view(k), v=view(v), o=view(o), lse=None if lse is None else lse.data_ptr())
        keep = self._prepare(params, self.lib.fa_attention_forward_workspace_size, mask, scale, False, kernel, q.device, None)
        return lambda keep=keep, params=params: self._check(self.lib.fa_attention_forward(c.byref(params)))

    def backward_call(self, q, k, v, o, grad_o, lse, grad_q, grad_k, grad_v, mask="none", scale=0.0, deterministic=False, kernel="auto", grad_lse=None,
                      workspace=None):
        params = Backward(q=view(q), k=view(k), v=view(v), o=view(o), grad_o=view(grad_o), grad_q=view(grad_q), grad_k=view(grad_k), grad_v=view(grad_v),
                          lse=lse.data_ptr(), grad_lse=None if grad_lse is None else grad_lse.data_ptr())
        keep = self._prepare(params, self.lib.fa_attention_backward_workspace_size, mask, scale, deterministic, kernel, q.device, workspace)
        return lambda keep=keep, params=params: self._check(self.lib.fa_attention_backward(c.byref(params)))
