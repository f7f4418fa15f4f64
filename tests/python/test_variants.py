"""Mask and score variants of the Python binding against PyTorch in float64, with gradients; on devices that compute them."""

import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bindings" / "python"))

try:
    import torch

    from flash_attention import FlashAttentionError, attention, describe, dropout_mask, scaled_dot_product_attention
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise unittest.SkipTest("PyTorch is not installed")

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SEED = int(os.environ.get("FLASH_ATTENTION_TEST_SEED", "20240607"))
BATCH, LEN_Q, LEN_KV, HEADS_Q, HEADS_KV, DIM = 2, 37, 53, 4, 2, 40
SHAPE = (BATCH, HEADS_Q, LEN_Q, LEN_KV)


def visible_pairs(len_q, len_kv, options):
    """(len_q, len_kv) bool of causal, window and chunk."""
    offset = len_kv - len_q if options.get("causal") == "bottom_right" else 0
    position = torch.arange(len_q)[:, None] + offset
    key = torch.arange(len_kv)[None, :]
    seen = torch.ones(len_q, len_kv, dtype=torch.bool)
    if options.get("causal") is not None:
        seen &= key <= position
    if options.get("window") is not None:
        left, right = options["window"]
        seen &= (left is None or left < 0) | (key >= position - (left or 0))
        seen &= (right is None) | (key <= position + (right or 0))
    if options.get("chunk"):
        seen &= torch.div(position, options["chunk"], rounding_mode="floor") == torch.div(key, options["chunk"], rounding_mode="floor")
    return seen, (position - key).abs()


def exact(q, k, v, options):
    """(o, lse) in float64 with autograd, from the definition; sequences apart."""
    q, k, v = q.double(), k.double(), v.double()
    heads = q.shape[2]
    k, v = (tensor.repeat_interleave(heads // k.shape[2], dim=2) for tensor in (k, v))
    o = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float64)
    lse = torch.full((q.shape[0], heads, q.shape[1]), float("-inf"), dtype=torch.float64)
    outputs, rows = [], []
    for b, (at, rows_q, rows_kv) in enumerate(places(q, k, options)):
        if rows_q.stop == rows_q.start:
            continue
        part, part_lse = one_sequence(q[at, rows_q], k[at, rows_kv], v[at, rows_kv], b, options)
        pad = (0, 0, 0, 0, rows_q.start, q.shape[1] - rows_q.stop)
        outputs.append((at, torch.nn.functional.pad(part, pad)))
        rows.append((at, rows_q, part_lse))
    for at, part in outputs:
        o = o + torch.nn.functional.one_hot(torch.tensor(at), q.shape[0]).double()[:, None, None, None] * part
    for at, rows_q, part_lse in rows:
        lse = lse.clone()
        lse[at, :, rows_q] = part_lse
    return o, lse


def places(q, k, options):
    if "cu_seqlens_q" in options:
        cu_q, cu_kv = options["cu_seqlens_q"].tolist(), options["cu_seqlens_kv"].tolist()
        spans = [(0, cu_q[b], cu_q[b + 1], cu_kv[b], cu_kv[b + 1]) for b in range(len(cu_q) - 1)]
    else:
        spans = [(b, 0, q.shape[1], 0, k.shape[1]) for b in range(q.shape[0])]
    result = []
    for b, (at, q0, q1, k0, k1) in enumerate(spans):
        used_q = options["seqused_q"][b].item() if "seqused_q" in options else q1 - q0
        used_kv = options["seqused_kv"][b].item() if "seqused_kv" in options else k1 - k0
        left = options.get("left_padded", False)
        result.append((at, slice(q1 - used_q, q1) if left else slice(q0, q0 + used_q), slice(k1 - used_kv, k1) if left else slice(k0, k0 + used_kv)))
    return result


def one_sequence(q, k, v, b, options):
    len_q, len_kv, heads = q.shape[0], k.shape[0], q.shape[1]
    seen, distance = visible_pairs(len_q, len_kv, options)
    seen = seen.expand(heads, len_q, len_kv)
    scores = torch.einsum("ihd,jhd->hij", q, k) * (options.get("scale") or q.shape[2] ** -0.5)
    if "softcap" in options:
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    if "bias" in options:
        bias = options["bias"]
        bias = bias[b if bias.shape[0] > 1 else 0].double()
        scores = scores + bias[:, : bias.shape[1] if bias.shape[1] == 1 else len_q, :len_kv]
    if "alibi_slopes" in options:
        slopes = options["alibi_slopes"]
        scores = scores - (slopes[b] if slopes.dim() == 2 else slopes).double()[:, None, None] * distance
    if "visible" in options:
        mask = options["visible"]
        mask = mask[b if mask.shape[0] > 1 else 0].bool()
        seen = seen & mask[:, :len_q if mask.shape[1] > 1 else 1, :len_kv]
    if "block_mask" in options:
        size_q, size_kv = options["block_size"]
        blocks = options["block_mask"][0].bool().repeat_interleave(size_q, dim=1).repeat_interleave(size_kv, dim=2)
        seen = seen & blocks[:, :len_q, :len_kv]
    weights = torch.where(seen, torch.exp(torch.where(seen, scores, torch.zeros_like(scores))), torch.zeros_like(scores))
    total = weights.sum(dim=2) + (torch.exp(options["sinks"].double())[:, None] if "sinks" in options else 0)
    p = weights / torch.where(total > 0, total, torch.ones_like(total))[:, :, None]
    if options.get("dropout_p"):
        kept = dropout_mask((b + 1, heads, len_q, len_kv), options["dropout_p"], options["dropout_seed"])[b]
        p = p * kept / (1 - options["dropout_p"])
    return torch.einsum("hij,jhd->ihd", p, v), torch.log(total)


def floats(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cases():
    """(name, options): every variant of the binding."""
    for causal in (None, "top_left", "bottom_right"):
        yield f"window {causal}", {"causal": causal, "window": (7, None if causal else 4)}
        yield f"chunk {causal}", {"causal": causal, "chunk": 16}
        yield f"alibi {causal}", {"causal": causal, "alibi_slopes": floats(HEADS_Q, seed=1).abs()}
    yield "softcap", {"softcap": 2.0}
    yield "alibi per batch", {"alibi_slopes": floats(BATCH, HEADS_Q, seed=2).abs()}
    for shape in (SHAPE, (1, 1, LEN_Q, LEN_KV), (BATCH, 1, 1, LEN_KV), (1, HEADS_Q, 1, LEN_KV)):
        yield f"bias {shape}", {"bias": floats(*shape, seed=3).requires_grad_()}
        yield f"visible {shape}", {"visible": floats(*shape, seed=4) > -0.5}
    yield "blocks", {"block_mask": floats(1, HEADS_Q, 3, 2, seed=5) > -0.5, "block_size": (16, 32)}
    yield "sinks", {"sinks": floats(HEADS_Q, seed=6).requires_grad_()}
    yield "dropout", {"dropout_p": 0.3, "dropout_seed": 2**63 + 5}
    used = {"seqused_q": torch.tensor([37, 5], dtype=torch.int32), "seqused_kv": torch.tensor([11, 53], dtype=torch.int32)}
    yield "used lengths", used
    yield "left padding", {**used, "left_padded": True, "causal": "bottom_right"}
    yield "together", {
        "causal": "bottom_right",
        "window": (30, 0),
        "softcap": 3.0,
        "alibi_slopes": floats(HEADS_Q, seed=7).abs(),
        "bias": floats(1, HEADS_Q, LEN_Q, LEN_KV, seed=8).requires_grad_(),
        "sinks": floats(HEADS_Q, seed=9).requires_grad_(),
        "dropout_p": 0.2,
        "dropout_seed": 3,
        "visible": floats(BATCH, 1, 1, LEN_KV, seed=10) > -1,
    }


def moved(options, device):
    """Options with their tensors on a device, leaves of their own."""
    def move(value):
        return value.detach().to(device).requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value

    return {name: move(value) for name, value in options.items()}


class VariantTest(unittest.TestCase):
    def assert_near(self, name, actual, expected):
        self.assertEqual(actual.shape, expected.shape, name)
        actual = actual.detach().cpu().double()
        finite = expected[torch.isfinite(expected)].abs()
        allowed = self.tolerance * max(1.0, finite.max().item() if finite.numel() else 1.0)
        same = (actual == expected) | ((actual - expected).abs() <= allowed)
        self.assertTrue(bool(same.all()), f"{name}: error {(actual - expected).abs().max()}")

    def check(self, device, dtype, batch, options):
        self.tolerance = {torch.float32: 1e-5, torch.float16: 1e-2}[dtype]
        shapes = [(LEN_Q, HEADS_Q), (LEN_KV, HEADS_KV), (LEN_KV, HEADS_KV)]
        inputs = [floats(batch, length, heads, DIM, seed=SEED + n).to(dtype) for n, (length, heads) in enumerate(shapes)]
        grad_o = floats(batch, LEN_Q, HEADS_Q, DIM, seed=SEED + 9).to(dtype)
        grad_lse = floats(batch, HEADS_Q, LEN_Q, seed=SEED + 10)
        results = []
        for where in (device, "float64"):
            here = moved(options, device if where == device else "cpu")
            leaves = [tensor.detach().to(device if where == device else "cpu").requires_grad_() for tensor in inputs]
            if where == device:
                o, lse = attention(*leaves, return_lse=True, **here)
            else:
                o, lse = exact(*leaves, here)
            finite = torch.where(torch.isfinite(lse), lse, torch.zeros_like(lse))
            loss = (o * grad_o.to(o)).sum() + (finite * grad_lse.to(lse)).sum()
            leaves += [here[name] for name in ("bias", "sinks") if name in here]
            grads = torch.autograd.grad(loss, leaves)
            results.append((o, lse, *(grad.double() for grad in grads)))
        for name, actual, expected in zip(("o", "lse", "grad_q", "grad_k", "grad_v", "grad_bias or grad_sinks", "grad_sinks"), *results):
            self.assert_near(name, actual, expected.detach())

    def test_against_float64(self):
        refused = []
        for device in DEVICES:
            for dtype in [torch.float32, torch.float16] if device == "cpu" else [torch.float16]:
                for name, options in cases():
                    with self.subTest(device=device, dtype=dtype, case=name):
                        try:
                            self.check(device, dtype, BATCH, options)
                        except FlashAttentionError as error:
                            if device == "cpu" or error.status_name != "FA_STATUS_UNSUPPORTED":
                                raise
                            refused.append(f"{name}: {error}")
        print(f"{len(refused)} cases refused as unsupported", *refused, sep="\n", file=sys.stderr) if refused else None

    def test_packed(self):
        cu_q, cu_kv = (torch.tensor(offsets, dtype=torch.int32) for offsets in ([0, 9, 9, 37], [0, 20, 31, 53]))
        options = {"cu_seqlens_q": cu_q, "cu_seqlens_kv": cu_kv, "max_len_q": 28, "max_len_kv": 22, "causal": "bottom_right"}
        self.check("cpu", torch.float32, 1, options)
        self.check("cpu", torch.float32, 1, {**options, "seqused_kv": torch.tensor([3, 11, 22], dtype=torch.int32), "left_padded": True})

    def test_drop_in_masks(self):
        q, k, v = (floats(2, 4, length, 32, seed=n) for n, length in ((1, 37), (2, 53), (3, 53)))
        for mask in (floats(37, 53, seed=4) > -0.5, floats(2, 1, 1, 53, seed=5) > -0.5, floats(4, 37, 53, seed=6), floats(2, 4, 37, 1, seed=7)):
            leaf = mask.clone().requires_grad_() if mask.is_floating_point() else mask
            o = scaled_dot_product_attention(q, k, v, attn_mask=leaf)
            scores = q.double() @ k.double().transpose(-1, -2) * 32**-0.5
            other = mask.double().requires_grad_() if mask.is_floating_point() else mask
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + other
            expected = torch.softmax(scores, dim=-1) @ v.double()
            self.assertLess((o - expected).abs().max().item(), 1e-5)
            if mask.is_floating_point():
                o.square().sum().backward()
                expected.square().sum().backward()
                self.assertLess((leaf.grad - other.grad).abs().max().item(), 1e-4)

    def test_drop_in_dropout(self):
        q = floats(1, 2, 64, 16, seed=1)
        torch.manual_seed(5)
        first = scaled_dot_product_attention(q, q, q, dropout_p=0.5)
        second = scaled_dot_product_attention(q, q, q, dropout_p=0.5)
        torch.manual_seed(5)
        self.assertTrue(torch.equal(first, scaled_dot_product_attention(q, q, q, dropout_p=0.5)))
        self.assertFalse(torch.equal(first, second))

    def test_errors_name_the_argument(self):
        q = floats(1, 8, 4, 16, seed=1)
        wrong = [
            ({"softcap": -1.0}, ValueError, "softcap"),
            ({"softcap": "30"}, ValueError, "softcap"),
            ({"window": (1,)}, ValueError, "window"),
            ({"window": 5}, ValueError, "window: expected (left, right)"),
            ({"window": (1.5, 0)}, ValueError, "window: expected (left, right)"),
            ({"chunk": 1.5}, TypeError, "chunk"),
            ({"dropout_p": "0.1"}, TypeError, "dropout_p"),
            ({"bias": 3}, TypeError, "bias: expected a torch.Tensor"),
            ({"window": (1, 2), "causal": "top_left"}, ValueError, "right side"),
            ({"bias": q[0]}, ValueError, "bias: expected 4 dimensions"),
            ({"bias": torch.zeros(1, 1, 8, 8, dtype=torch.float16)}, ValueError, "bias: expected float32"),
            ({"bias": torch.zeros(1, 3, 8, 8)}, FlashAttentionError, "bias.sizes[1]"),
            ({"visible": torch.zeros(1, 1, 8, 8)}, ValueError, "visible: expected bool"),
            ({"sinks": torch.zeros(3)}, ValueError, "sinks"),
            ({"alibi_slopes": torch.zeros(4, dtype=torch.float16)}, ValueError, "alibi_slopes"),
            ({"dropout_p": 1.0}, FlashAttentionError, "dropout"),
            ({"cu_seqlens_q": torch.zeros(2, dtype=torch.int32)}, ValueError, "max_len_q"),
            ({"block_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool)}, ValueError, "block_size"),
            ({"block_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool), "block_size": 16}, ValueError, "block_size"),
            ({"slopes": 1}, TypeError, "slopes"),
        ]
        for options, kind, words in wrong:
            with self.subTest(words=words), self.assertRaises(kind) as caught:
                attention(q, q, q, **options)
            self.assertIn(words, str(caught.exception))

    def test_describe_names_the_variant(self):
        q = torch.empty(1, 128, 2, 64, dtype=torch.float16)
        self.assertTrue(describe(q, q, q, softcap=30.0).kernel_name)
        try:
            self.assertTrue(describe(q, q, q, softcap=30.0, assumed_compute_capability=90).kernel_name)
        except FlashAttentionError as error:
            self.assertIn("softcap", str(error))


if __name__ == "__main__":
    unittest.main()
