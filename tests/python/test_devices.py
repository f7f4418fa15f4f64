"""The Python binding on several CUDA devices: run `python3 -m unittest discover -s tests/python`. Skipped where PyTorch sees fewer than two."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bindings" / "python"))

try:
    import torch

    from flash_attention import attention
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise unittest.SkipTest("PyTorch is not installed")


def step(device, stream=None):
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
        first = step("cuda:0")
        self.assertEqual(torch.cuda.current_device(), 0)
        second = step("cuda:1")
        self.assertEqual(torch.cuda.current_device(), 0)
        for a, b in zip(first, second):
            self.assertLess((a.double() - b.double()).abs().max().item(), 4e-3)

    def test_streams_of_another_device(self):
        expected = step("cuda:1")
        for a, b in zip(expected, step("cuda:1", torch.cuda.Stream("cuda:1"))):
            self.assertTrue(torch.equal(a, b))

    def test_tensors_of_two_devices_are_refused(self):
        q = torch.zeros((1, 16, 2, 64), dtype=torch.float16, device="cuda:0")
        with self.assertRaisesRegex(ValueError, "k: expected a tensor on cuda:0"):
            attention(q, q.to("cuda:1"), q)


if __name__ == "__main__":
    unittest.main()
