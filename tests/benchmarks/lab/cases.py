"""What a forward kernel must get right before it is timed: shapes around every tile edge, strided views, and inputs that defeat the cheap softmax path.

The reference is float64 from the definition. Inputs lie in larger tensors filled with NaN, outputs are poisoned with NaN and fenced.
"""
import math

import torch

from common import BOTTOM_RIGHT, EPS, NONE, TOP_LEFT, fenced, finite_elsewhere, inside_nan, is_whole, visible


def reference(q, k, v, mask, scale):
    """O (batch, len_q, heads, head_dim_v) and the log-sum-exp (batch, heads, len_q), float64. Masked keys are not read: their NaN reaches nothing."""
    group = q.shape[2] // k.shape[2]
    to64 = lambda t, repeat: t.double().transpose(1, 2).repeat_interleave(repeat, dim=1)
    q, k, v = to64(q, 1), to64(k, group), to64(v, group)
    sees = visible(q.shape[2], k.shape[2], mask)
    scores = (scale * (q @ k.transpose(-1, -2))).masked_fill(~sees, -math.inf)
    lse = torch.logsumexp(scores, dim=-1)
    p = torch.softmax(scores, dim=-1).masked_fill(~sees, 0.0)
    finite_v = torch.where(v.isfinite(), v, torch.zeros_like(v))
    o = p @ finite_v
    if not bool(v.isfinite().all()):
        reached = sees.double() @ (~v.isfinite()).double()
        o = torch.where(reached > 0, torch.full_like(o, math.nan), o)
    empty = ~sees.any(dim=-1)
    o[:, :, empty] = 0.0
    lse[:, :, empty] = -math.inf
    return o.transpose(1, 2), lse


class Problem:
    def __init__(self, name, b, len_q, len_kv, heads_q, heads_kv, d, dv, mask, layout="bshd", scale=None, dtype=torch.float16, touch=None, tolerance=1.0):
        self.name, self.mask, self.scale, self.touch, self.tolerance = name, mask, scale or d ** -0.5, touch, tolerance
        self.shapes = (b, len_q, heads_q, d), (b, len_kv, heads_kv, d), (b, len_kv, heads_kv, dv)
        self.layout, self.dtype = layout, dtype

    def text(self):
        return f"{self.name} q{self.shapes[0]} k{self.shapes[1]} dv{self.shapes[2][3]} mask{self.mask} {self.layout} {str(self.dtype)[6:]}"

    def inputs(self):
        tensors = []
        for i, (b, s, h, d) in enumerate(self.shapes):
            broadcast = self.layout == "broadcast" and i > 0
            tensor = inside_nan((b, s, 1 if broadcast else h, d), self.dtype, self.layout)
            tensor.copy_(torch.randn(tensor.shape, device="cuda"))
            tensors.append(tensor.expand(b, s, h, d) if broadcast else tensor)
        if self.touch:
            self.touch(*tensors)
        return tensors


def compare(problem, o, lse, want_o, want_lse, v):
    """None, or what is wrong."""
    finite, elsewhere, eps = want_o.isfinite(), finite_elsewhere(o, want_o), EPS[problem.dtype]
    if elsewhere:
        return elsewhere
    largest_v = float(v[v.isfinite()].abs().max()) if bool(v.isfinite().any()) else 1.0
    error = (o.double() - want_o)[finite].abs()
    worst = float(error.max()) if error.numel() else 0.0
    if not worst <= 3 * eps * largest_v * problem.tolerance:
        return f"largest error {worst:.2e}, allowed {3 * eps * largest_v * problem.tolerance:.2e}"
    norm = float(want_o[finite].norm())
    relative = float(error.norm()) / norm if norm > 0 else 0.0
    if not relative <= 1.5 * eps * problem.tolerance:
        return f"relative error {relative:.2e}, allowed {1.5 * eps * problem.tolerance:.2e}"
    known = want_lse.isfinite()
    if not bool((lse.isfinite() == known).all()) or not bool((lse[want_lse == -math.inf] == -math.inf).all()):
        return "log-sum-exp is finite where it must not be, or the reverse"
    lse_error = (lse.double() - want_lse)[known].abs() / want_lse[known].abs().clamp(min=1.0)
    worst = float(lse_error.max()) if lse_error.numel() else 0.0
    if not worst <= 2e-5:
        return f"log-sum-exp off by {worst:.2e} (relative to 1 or its size)"
    return None


def solve(variant, problem):
    """Runs the kernel: inputs, O, LSE and whether nothing was damaged around O."""
    q, k, v = problem.inputs()
    b, s, h, _ = q.shape
    o, room = fenced((b, s, h, v.shape[3]), problem.dtype)
    lse = torch.full((b, h, s), math.nan, device="cuda")
    variant.run(q, k, v, o, lse, problem.mask, problem.scale)
    torch.cuda.synchronize()
    return q, k, v, o, lse, is_whole(room)


def shape_problems(tile_q, tile_kv, d, full):
    out = []
    queries = [1, 64, tile_q - 1, tile_q, tile_q + 1, 2 * tile_q + 65]
    keys = [1, tile_kv - 1, tile_kv, tile_kv + 1, 3 * tile_kv, 4 * tile_kv + 17]
    for i, len_q in enumerate(queries):
        for j, len_kv in enumerate(keys):
            for mask in (NONE, TOP_LEFT, BOTTOM_RIGHT):
                if full or (i + j + mask) % 3 == 0:
                    out.append(Problem("edge", 1, len_q, len_kv, 2, 1, d, d, mask))
    out += [Problem("heads", 3, 333, 777, 6, 2, d, d, mask, layout) for mask in (NONE, TOP_LEFT, BOTTOM_RIGHT) for layout in ("bshd", "bhsd")]
    out += [Problem("many tiles", 2, 1500, 1500, 40, 40, d, d, mask) for mask in (NONE, BOTTOM_RIGHT)]
    out += [Problem("bf16", 2, 300, 900, 4, 4, d, d, mask, dtype=torch.bfloat16) for mask in (NONE, BOTTOM_RIGHT)]
    out += [Problem("padded", 2, 200, 300, 3, 3, max(8, d - 8), max(8, d - 24), mask) for mask in (NONE, BOTTOM_RIGHT)]
    out += [Problem("broadcast", 2, 200, 300, 4, 2, d, d, NONE, "broadcast")]
    out += [Problem("no keys", 1, 300, 0, 2, 2, d, d, mask) for mask in (NONE, TOP_LEFT)]
    out += [Problem("rows without keys", 1, 600, 100, 2, 2, d, d, BOTTOM_RIGHT)]
    return out


def adversarial_problems(tile_kv, d, dtype):
    """Logits are 16 * k[..., 0] plus noise of a few units; scale 1."""
    out = []
    length = 6 * tile_kv + 7

    def add(name, pattern, rows=None, tolerance=1.0, mask=NONE, length=length):
        def touch(q, k, v):
            q.mul_(0.1)
            q[..., 0] = 16.0
            j = torch.arange(k.shape[1], device="cuda", dtype=torch.float32)
            k[..., 0] = (pattern(j) / 16.0).to(dtype)[None, :, None]
            if rows is not None:
                q[..., 0] = rows(torch.arange(q.shape[1], device="cuda")).to(dtype)[None, :, None]
        out.append(Problem(name, 1, 200, length, 2, 2, d, d, mask, scale=1.0, dtype=dtype, touch=touch, tolerance=tolerance))

    for growth in (2.0, 20.0, 200.0, 1e4):
        # fp32 scores of 6e4 are exact to 4e-3, and the exponential turns an absolute error into a relative one.
        tolerance = 16.0 if growth > 1e3 else 1.5
        tile = lambda j: torch.div(j, tile_kv, rounding_mode="floor")
        add(f"up by {growth:g}", lambda j, g=growth: g * tile(j), tolerance=tolerance)
        add(f"down by {growth:g}", lambda j, g=growth: g * (6 - tile(j)), tolerance=tolerance)
        add(f"down by {growth:g}, causal", lambda j, g=growth: g * (6 - tile(j)), tolerance=tolerance, mask=BOTTOM_RIGHT)
        add(f"down by {growth:g} by row", lambda j, g=growth: g * (6 - tile(j)), rows=lambda i: 16.0 * ((i % 7 == 3).float() - (i % 5 == 2).float()),
            tolerance=tolerance)
        add(f"down by {growth:g} by lane", lambda j, g=growth: g * (6 - tile(j)) * (j % 8 == 5).float(), tolerance=tolerance)
        last = lambda j: (j >= length - length % tile_kv - tile_kv).float()
        add(f"first tile {growth:g} above", lambda j, g=growth: g * last(j), tolerance=tolerance)
        add(f"first tile {growth:g} below", lambda j, g=growth: -g * last(j), tolerance=tolerance)

    for growth in (0.3, 0.7, 1.0, 1.3, 1.6):  # too little per tile to be noticed from one to the next
        add(f"creeps up by {growth:g}", lambda j, g=growth: g * (39 - torch.div(j, tile_kv, rounding_mode="floor")), tolerance=1.5, length=40 * tile_kv)

    def special(name, change, mask):
        out.append(Problem(name, 1, 2 * 192 + 5, 5 * tile_kv + 3, 2, 2, d, d, mask, dtype=dtype, touch=change))

    for mask in (NONE, BOTTOM_RIGHT):
        for value in (math.nan, math.inf, -math.inf):
            special(f"q row {value}", lambda q, k, v, x=value: q[:, 37, 0].fill_(x), mask)
            special(f"q element {value}", lambda q, k, v, x=value: q[:, 70, 1, 3].fill_(x), mask)
            special(f"k row {value}", lambda q, k, v, x=value: k[:, 2 * tile_kv + 9, 0].fill_(x), mask)
            special(f"v row {value}", lambda q, k, v, x=value: v[:, 2 * tile_kv + 9, 0].fill_(x), mask)
            special(f"last v row {value}", lambda q, k, v, x=value: v[:, -1, 1].fill_(x), mask)
        special("all of v nan", lambda q, k, v: v.fill_(math.nan), mask)
        special("k element inf", lambda q, k, v: k[:, tile_kv + 3, 0, 5].fill_(math.inf), mask)
    return out


def check(variant, full):
    """Prints what fails; True if nothing does."""
    tile_q, tile_kv, d = 64 * variant.warpgroups, variant.tile_kv, variant.head_dim
    problems = shape_problems(tile_q, tile_kv, d, full) + adversarial_problems(tile_kv, d, torch.float16)
    if full:
        problems += adversarial_problems(tile_kv, d, torch.bfloat16)
    failures = 0
    torch.manual_seed(1)
    for problem in problems:
        try:
            q, k, v, o, lse, fence_whole = solve(variant, problem)
            want_o, want_lse = reference(q, k, v, problem.mask, problem.scale)
            wrong = "a write outside o" if not fence_whole else compare(problem, o, lse, want_o, want_lse, v)
        except RuntimeError as error:
            wrong = str(error)
        if wrong:
            failures += 1
            if failures <= 6:
                print(f"  {variant.name}: {problem.text()}: {wrong}")
    repeat = Problem("repeat", 2, 700, 900, 4, 4, d, d, BOTTOM_RIGHT)
    q, k, v = repeat.inputs()
    results = []
    for _ in range(10):
        o = torch.full(q.shape[:3] + (d,), math.nan, device="cuda", dtype=q.dtype)
        variant.run(q, k, v, o, None, repeat.mask, repeat.scale)
        results.append(o)
    torch.cuda.synchronize()
    if not all(torch.equal(r, results[0]) for r in results):
        failures += 1
        print(f"  {variant.name}: repeats differ")
    print(f"{variant.name}: {len(problems) + 1 - failures} of {len(problems) + 1} checks passed", flush=True)
    return failures == 0
