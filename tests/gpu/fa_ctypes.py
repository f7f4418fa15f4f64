"""Prepared calls for the GPU checks and benchmarks: arguments and workspace are made once, a call only queues the work. All of the C ABI comes from
bindings/python.

Tensors are torch tensors of logical shape (batch, sequence, heads, head_dim) with any strides.
"""
import ctypes as c
import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bindings", "python"))
from flash_attention import _abi  # noqa: E402
from flash_attention._library import FlashAttentionError, library  # noqa: E402
from flash_attention.attention import backward_params, forward_params  # noqa: E402
from flash_attention.options import Options  # noqa: E402


class Library:
    """The library that FLASH_ATTENTION_LIBRARY names, or the one at a path, beside which others may be loaded."""

    def __init__(self, path=None):
        if path is None:
            self.lib = library()
            return
        # The loader tells files with one name apart by their whole paths.
        self.lib = c.CDLL(os.path.realpath(path), mode=c.RTLD_LOCAL)
        _abi.declare(self.lib)
        if self.lib.fa_abi_version() != _abi.FA_ABI_VERSION:
            raise ImportError(f"{path} has ABI version {self.lib.fa_abi_version()}; expected {_abi.FA_ABI_VERSION}")

    def build_info(self):
        return self.lib.fa_build_info().decode()

    def _check(self, status):
        if status != _abi.FA_STATUS_OK:
            raise FlashAttentionError(status, self.lib.fa_status_name(status).decode(), self.lib.fa_last_error_message().decode())

    @staticmethod
    def _options(q, mask, scale, kernel, deterministic, options):
        causal = None if mask == "none" else mask
        return Options(causal=causal, scale=scale or None, kernel=kernel, deterministic=deterministic, **options).native(q)

    def _prepared(self, params, size_function, function, device, keep):
        """The call itself; it keeps alive what params points to."""
        size = c.c_uint64()
        self._check(size_function(c.byref(params), c.byref(size)))
        workspace = torch.empty(size.value, dtype=torch.uint8, device=device)
        params.workspace = workspace.data_ptr() if size.value else None
        params.workspace_bytes = size.value
        return lambda keep=(keep, workspace), params=params: self._check(function(c.byref(params)))

    def forward_call(self, q, k, v, o, lse, mask="none", scale=0.0, kernel="auto", **options):
        """A function that queues the forward pass on the stream current now. mask: none, top_left, bottom_right; options: those of attention() in
        bindings/python."""
        native, kept = self._options(q, mask, scale, kernel, False, options)
        params = forward_params(q, k, v, o, lse, native)
        return self._prepared(params, self.lib.fa_attention_forward_workspace_size, self.lib.fa_attention_forward, q.device, (native, kept, q, k, v, o, lse))

    def backward_call(self, q, k, v, o, grad_o, lse, grad_q, grad_k, grad_v, mask="none", scale=0.0, deterministic=False, kernel="auto", grad_lse=None,
                      grad_bias=None, grad_sinks=None, **options):
        native, kept = self._options(q, mask, scale, kernel, deterministic, options)
        tensors = (q, k, v, o, grad_o, lse, grad_q, grad_k, grad_v)
        params = backward_params(*tensors, native, grad_lse, grad_bias, grad_sinks)
        keep = (native, kept, tensors, grad_lse, grad_bias, grad_sinks)
        return self._prepared(params, self.lib.fa_attention_backward_workspace_size, self.lib.fa_attention_backward, q.device, keep)
