"""The generated ctypes declarations alone, without PyTorch: dropout mask against Philox4x32-10 in Python, a softcap with sinks by hand, a merge."""

import ctypes
import importlib.util
import math
import os
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = os.environ.get("FLASH_ATTENTION_LIBRARY", str(ROOT / "native" / "build" / "libflash_attention.so"))

specification = importlib.util.spec_from_file_location("_abi", ROOT / "bindings" / "python" / "flash_attention" / "_abi.py")
abi = importlib.util.module_from_spec(specification)
specification.loader.exec_module(abi)


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(right >> 32) ^ c[1] ^ k[0], right & 0xFFFFFFFF, (left >> 32) ^ c[3] ^ k[1], left & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def tensor(values, sizes, dtype):
    result = abi.fa_tensor(data=ctypes.addressof(values), dtype=dtype)
    result.sizes[:] = sizes
    result.strides[:] = [sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1]
    return result


class AbiTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            cls.native = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise unittest.SkipTest(f"the native library is not built: {error}")
        abi.declare(cls.native)
        cls.cpu = abi.fa_device(abi.FA_DEVICE_CPU, 0)

    def check(self, status):
        self.assertEqual(status, abi.FA_STATUS_OK, self.native.fa_last_error_message().decode())

    def test_philox_gives_the_published_numbers(self):
        self.assertEqual(philox([0] * 4, [0] * 2), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])

    def test_dropout_mask(self):
        sizes, seed, offset, rate = [2, 3, 5, 11], 0xFEDCBA9876543210, 0x80000001, 0.25
        kept = (ctypes.c_uint8 * math.prod(sizes))()
        params = abi.fa_dropout_mask_params(struct_size=ctypes.sizeof(abi.fa_dropout_mask_params), dropout=rate, seed=seed, offset=offset, device=self.cpu)
        params.out = tensor(kept, sizes, abi.FA_DTYPE_UINT8)
        self.check(self.native.fa_attention_dropout_mask(ctypes.byref(params)))
        for n, actual in enumerate(kept):
            j, i, head = n % 11, n // 11 % 5, n // 55
            word = philox([j // 4, i, head, offset], [seed & 0xFFFFFFFF, seed >> 32])[j % 4]
            self.assertEqual(actual, int(word >= int(rate * 2**32)), f"element {n}")

    def test_softcap_and_sink_by_hand(self):
        one, two, out, sink = (ctypes.c_float * 1)(3.0), (ctypes.c_float * 1)(2.0), (ctypes.c_float * 1)(), (ctypes.c_float * 1)(0.5)
        options = abi.fa_attention_options(struct_size=ctypes.sizeof(abi.fa_attention_options), scale=1.0, softcap=4.0, sinks=sink)
        params = abi.fa_forward_params(struct_size=ctypes.sizeof(abi.fa_forward_params), device=self.cpu, options=ctypes.pointer(options))
        params.q = params.k = tensor(one, [1, 1, 1, 1], abi.FA_DTYPE_FLOAT32)
        params.v, params.o = tensor(two, [1, 1, 1, 1], abi.FA_DTYPE_FLOAT32), tensor(out, [1, 1, 1, 1], abi.FA_DTYPE_FLOAT32)
        size = ctypes.c_uint64()
        self.check(self.native.fa_attention_forward_workspace_size(ctypes.byref(params), ctypes.byref(size)))
        memory = ctypes.create_string_buffer(size.value + 64)
        params.workspace, params.workspace_bytes = (ctypes.addressof(memory) + 63) // 64 * 64, size.value
        self.check(self.native.fa_attention_forward(ctypes.byref(params)))
        weight = math.exp(4 * math.tanh(9 / 4))
        self.assertAlmostEqual(out[0], 2 * weight / (weight + math.exp(0.5)), places=5)

    def test_merge(self):
        parts = [(1.0, 0.5), (5.0, -0.25)]
        values = [((ctypes.c_float * 1)(o), (ctypes.c_float * 1)(lse)) for o, lse in parts]
        out, out_lse = (ctypes.c_float * 1)(), (ctypes.c_float * 1)()
        params = abi.fa_merge_params(struct_size=ctypes.sizeof(abi.fa_merge_params), parts=2, device=self.cpu, lse=out_lse)
        params.o = tensor(out, [1, 1, 1, 1], abi.FA_DTYPE_FLOAT32)
        for n, (o, lse) in enumerate(values):
            params.part_o[n] = tensor(o, [1, 1, 1, 1], abi.FA_DTYPE_FLOAT32)
            params.part_lse[n] = ctypes.cast(lse, ctypes.POINTER(ctypes.c_float))
        self.check(self.native.fa_attention_merge(ctypes.byref(params)))
        total = sum(math.exp(lse) for _, lse in parts)
        self.assertAlmostEqual(out_lse[0], math.log(total), places=5)
        self.assertAlmostEqual(out[0], sum(o * math.exp(lse) for o, lse in parts) / total, places=5)


if __name__ == "__main__":
    unittest.main()
