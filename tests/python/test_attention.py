"""The Python binding against PyTorch in float64: run `python3 -m unittest discover -s tests/python`.

Devices: the CPU, and CUDA where torch sees one (FLASH_ATTENTION_REQUIRE_GPU=1 makes its absence a failure); several CUDA devices where it sees two.
"""

import itertools
import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bindings" / "python"))

try:
    import torch

    import reference
    from flash_attention import FlashAttentionError, attention, attention_forward, describe, scaled_dot_product_attention, version
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise unittest.SkipTest("PyTorch is not installed")

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SEED = int(os.environ.get("FLASH_ATTENTION_TEST_SEED", "20240607"))
# Distance between 1 and the next number of each format.
EPSILON = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def dtypes(device):
    return [torch.float32, torch.float16, torch.bfloat16] if device == "cpu" else [torch.float16, torch.bfloat16]


def random_tensor(shape, dtype, device, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device=device, dtype=dtype)


def max_error(actual, expected):
    """Largest absolute difference in float64; NaN counts as infinite."""
    if expected.numel() == 0:
        return 0.0
    difference = (actual.double() - expected.double()).abs()
    return float("inf") if torch.isnan(difference).any() else difference.max().item()


class AttentionTest(unittest.TestCase):
    def assert_close(self, name, actual, expected, naive, dtype):
        """The field's rule: at most twice the error of the naive form in the same dtype, plus one rounding of the largest value (eight in float32, whose sums
        are accumulated in float32 too, in another order than the naive form's)."""
        largest = expected.abs().max().item() if expected.numel() else 0.0
        allowed = 2 * max_error(naive, expected) + (8 if dtype == torch.float32 else 1) * EPSILON[dtype] * max(largest, 1e-3)
        error = max_error(actual, expected)
        self.assertLessEqual(error, allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g} (seed {SEED})")

    def check(self, device, dtype, batch, len_q, len_kv, heads_q, heads_kv, dim, dim_v, causal, with_grad_lse):
        generator = torch.Generator().manual_seed(SEED)
        q = random_tensor((batch, len_q, heads_q, dim), dtype, device, generator).requires_grad_()
        k = random_tensor((batch, len_kv, heads_kv, dim), dtype, device, generator).requires_grad_()
        v = random_tensor((batch, len_kv, heads_kv, dim_v), dtype, device, generator).requires_grad_()
        grad_o = random_tensor((batch, len_q, heads_q, dim_v), dtype, device, generator)
        grad_lse = random_tensor((batch, heads_q, len_q), torch.float32, device, generator) if with_grad_lse else None
        o, lse = attention(q, k, v, causal=causal, return_lse=True)
        outputs, seeds = ([o, lse], [grad_o, grad_lse]) if with_grad_lse else ([o], [grad_o])
        grads = torch.autograd.grad(outputs, (q, k, v), seeds)
        exact = reference.gradients(q, k, v, grad_o, grad_lse, causal)
        naive = reference.gradients(q, k, v, grad_o, grad_lse, causal, dtype=torch.float32, round_to=dtype)
        for name, actual, expected, simple in zip(("o", "grad_q", "grad_k", "grad_v"), (o, *grads), (exact[0], *exact[2:]), (naive[0], *naive[2:])):
            self.assert_close(name, actual, expected, simple, dtype)
        finite = torch.isfinite(exact[1])
        self.assertTrue(torch.equal(torch.isfinite(lse), finite))
        self.assertLess(max_error(lse[finite], exact[1][finite]), 1e-2 if dtype == torch.bfloat16 else 1e-3)

    def test_against_float64(self):
        shapes = [  # batch, len_q, len_kv, heads_q, heads_kv, dim, dim_v
            (2, 65, 65, 3, 3, 64, 64),
            (1, 128, 200, 4, 2, 128, 128),
            (2, 33, 17, 6, 1, 40, 72),
            (1, 130, 19, 2, 2, 256, 256),
        ]
        for device in DEVICES:
            for dtype, shape, causal in itertools.product(dtypes(device), shapes, (None, "top_left", "bottom_right")):
                with self.subTest(device=device, dtype=dtype, shape=shape, causal=causal):
                    self.check(device, dtype, *shape, causal, with_grad_lse=shape[0] == 2)

    def test_any_strides(self):
        for device in DEVICES:
            generator = torch.Generator().manual_seed(SEED)
            packed = random_tensor((2, 70, 3, 4, 64), torch.float16, device, generator)
            q, k, v = packed.unbind(2)
            self.assertFalse(q.is_contiguous())
            o, _ = attention_forward(q, k, v)
            same, _ = attention_forward(q.contiguous(), k.contiguous(), v.contiguous())
            self.assertTrue(torch.equal(o, same))

    def test_expanded_gradient(self):
        for device in DEVICES:
            q = torch.randn(1, 9, 2, 16, device=device).to(torch.float16).requires_grad_()
            attention(q, q, q).sum().backward()
            self.assertTrue(torch.isfinite(q.grad).all())

    def test_drop_in(self):
        for device in DEVICES:
            generator = torch.Generator().manual_seed(SEED)
            q, k, v = (random_tensor((2, 4, 37, 32), torch.float16, device, generator) for _ in range(3))
            o = scaled_dot_product_attention(q, k, v, is_causal=True)
            expected, _ = reference.attention(*(tensor.double().transpose(1, 2) for tensor in (q, k, v)), "top_left")
            self.assertLess(max_error(o, expected.transpose(1, 2)), 5e-3)
            with self.assertRaises(ValueError):
                scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(37, 37, dtype=torch.bool, device=device), is_causal=True)
            with self.assertRaises(ValueError):
                scaled_dot_product_attention(q, k[:, :2], v[:, :2])
            grouped = scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
            self.assertEqual(grouped.shape, q.shape)

    def test_deterministic_gradients(self):
        for device in DEVICES:
            generator = torch.Generator().manual_seed(SEED)
            q, k, v, grad_o = (random_tensor((1, 300, 2, 64), torch.float16, device, generator).requires_grad_() for _ in range(4))
            runs = [torch.autograd.grad(attention(q, k, v, causal="bottom_right", deterministic=True), (q, k, v), grad_o) for _ in range(3)]
            for other in runs[1:]:
                self.assertTrue(all(torch.equal(a, b) for a, b in zip(runs[0], other)))

    def test_errors_name_the_argument(self):
        q = torch.randn(1, 8, 4, 16)
        cases = [
            (lambda: attention(q[0], q, q), ValueError, "q: expected 4 dimensions"),
            (lambda: attention(q, q, q.double()), ValueError, "v: expected float32"),
            (lambda: attention(q, q, q.half()), FlashAttentionError, "v.dtype"),
            (lambda: attention(q, q[:, :, :3], q[:, :, :3]), FlashAttentionError, "q.sizes"),
            (lambda: attention(q, q, q, causal="left"), ValueError, "causal"),
            (lambda: attention(q, q, q, scale=-1.0), ValueError, "scale"),
            (lambda: attention(q, q, q, kernel="sm80"), FlashAttentionError, "sm80"),
            (lambda: attention(q, q, None), TypeError, "v: expected a torch.Tensor"),
            (lambda: attention_forward(q, q, q, out=q), FlashAttentionError, "o: expected memory apart from q"),
        ]
        for call, kind, words in cases:
            with self.subTest(words=words), self.assertRaises(kind) as caught:
                call()
            self.assertIn(words, str(caught.exception))

    def test_describe_and_version(self):
        q = torch.empty(2, 1024, 16, 128, dtype=torch.float16)
        plan = describe(q, q, q, causal="bottom_right")
        self.assertEqual(plan.flops, 4 * 2 * 16 * 128 * (1024 * 1025 / 2))
        self.assertTrue(plan.kernel_name and plan.reason)
        self.assertRegex(version(), r"^\d+\.\d+\.\d+$")

    def test_gpu_is_there_if_required(self):
        if os.environ.get("FLASH_ATTENTION_REQUIRE_GPU") == "1":
            self.assertIn("cuda", DEVICES, "FLASH_ATTENTION_REQUIRE_GPU=1, but torch sees no CUDA device")
        elif "cuda" not in DEVICES:
            self.skipTest("no CUDA device: the CPU alone was tested")


def step_on(device, stream=None):
    """Output and gradients of a small causal problem on a device."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn((2, 130, 4, 64), generator=generator).to(device=device, dtype=torch.float16).requires_grad_() for _ in range(3))
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream):
        o = attention(q, k, v, causal="top_left", deterministic=True)
        grads = torch.autograd.grad(o.float().square().sum(), (q, k, v))
    torch.cuda.synchronize(device)
    return [t.cpu() for t in (o.detach(), *grads)]


@unittest.skipUnless(torch.cuda.device_count() > 1, "needs two CUDA devices")
class SeveralDevicesTest(unittest.TestCase):
    def test_a_device_that_is_not_current(self):
        first = step_on("cuda:0")
        self.assertEqual(torch.cuda.current_device(), 0)
        second = step_on("cuda:1")
        self.assertEqual(torch.cuda.current_device(), 0)
        for a, b in zip(first, second):
            self.assertLess((a.double() - b.double()).abs().max().item(), 4e-3)

    def test_streams_of_another_device(self):
        expected = step_on("cuda:1")
        for a, b in zip(expected, step_on("cuda:1", torch.cuda.Stream("cuda:1"))):
            self.assertTrue(torch.equal(a, b))

    def test_tensors_of_two_devices_are_refused(self):
        q = torch.zeros((1, 16, 2, 64), dtype=torch.float16, device="cuda:0")
        with self.assertRaisesRegex(ValueError, "k: expected a tensor on cuda:0"):
            attention(q, q.to("cuda:1"), q)


if __name__ == "__main__":
    unittest.main()
