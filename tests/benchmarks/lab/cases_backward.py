"""What a backward kernel must get right before it is timed: shapes around every tile edge, strided views, groups, empty rows, gradients of the log-sum-exp.

The reference is float64 from the definition; o and the log-sum-exp that the kernel receives are the reference's, rounded. Inputs lie in larger tensors
filled with NaN, outputs and workspace are poisoned with NaN and fenced. A gradient's relative error may be at most twice that of the unfused computation in
the input's own dtype, plus a rounding.
"""
import math

import torch

from common import BOTTOM_RIGHT, EPS, NONE, TOP_LEFT, fenced, finite_elsewhere, inside_nan, is_whole, visible


def gradients(q, k, v, grad_o, grad_lse, sees, scale, dtype):
    """o, log-sum-exp and the three gradients, computed unfused in dtype, (batch, heads, len, dim) all; heads of k and v already repeated."""
    q, k, v, grad_o = (t.to(dtype) for t in (q, k, v, grad_o))
    scores = (scale * (q @ k.transpose(-1, -2))).masked_fill(~sees, -math.inf)
    lse = torch.logsumexp(scores, dim=-1)
    empty = ~sees.any(dim=-1)
    p = torch.softmax(scores, dim=-1).masked_fill(empty[:, None], 0.0)
    o = p @ v
    grad_v = p.transpose(-1, -2) @ grad_o
    grad_p = grad_o @ v.transpose(-1, -2)
    delta = (grad_o * o).sum(-1, keepdim=True)
    if grad_lse is not None:
        delta = delta - grad_lse.to(dtype)[..., None]
    ds = p * (grad_p - delta)
    return o, lse, scale * (ds @ k), scale * (ds.transpose(-1, -2) @ q), grad_v


class Problem:
    def __init__(self, name, b, len_q, len_kv, heads_q, heads_kv, d, dv, mask, layout="bshd", scale=None, dtype=torch.float16, gain=1.0, grad_lse=False):
        self.name, self.mask, self.scale, self.gain, self.grad_lse = name, mask, scale or d ** -0.5, gain, grad_lse
        self.b, self.len_q, self.len_kv, self.heads_q, self.heads_kv, self.d, self.dv = b, len_q, len_kv, heads_q, heads_kv, d, dv
        self.layout, self.dtype = layout, dtype

    def text(self):
        return (f"{self.name} b{self.b} q{self.len_q} kv{self.len_kv} h{self.heads_q}/{self.heads_kv} d{self.d}/{self.dv} mask{self.mask} {self.layout} "
                f"{str(self.dtype)[6:]}")

    def input(self, s, h, d, gain=1.0):
        """Random normal (batch, len, heads, head_dim) view inside a larger tensor of NaN."""
        view = inside_nan((self.b, s, h, d), self.dtype, self.layout)
        view.copy_(torch.randn(view.shape, device="cuda") * gain)
        return view

    def output(self, s, h, d):
        """A poisoned output and the fenced tensor around it."""
        return fenced((self.b, s, h, d), self.dtype)


def check_one(variant, p):
    """None or what is wrong; and the largest relative error over its bound."""
    t = {"q": p.input(p.len_q, p.heads_q, p.d, p.gain), "k": p.input(p.len_kv, p.heads_kv, p.d), "v": p.input(p.len_kv, p.heads_kv, p.dv),
         "grad_o": p.input(p.len_q, p.heads_q, p.dv)}
    group = p.heads_q // p.heads_kv
    sees = visible(p.len_q, p.len_kv, p.mask)
    first = lambda x, repeat: x.transpose(1, 2).repeat_interleave(repeat, dim=1)
    grad_lse = torch.randn(p.b, p.heads_q, p.len_q, device="cuda") if p.grad_lse else None
    heads_first = (first(t["q"], 1), first(t["k"], group), first(t["v"], group), first(t["grad_o"], 1))
    o, lse, *want = gradients(*heads_first, grad_lse, sees, p.scale, torch.float64)
    naive = gradients(*heads_first, grad_lse, sees, p.scale, p.dtype)[2:]
    fold = lambda x: x.double().unflatten(1, (p.heads_kv, group)).sum(2)
    want, naive = ([x[0].double(), fold(x[1]), fold(x[2])] for x in (want, naive))
    t["o"] = p.input(p.len_q, p.heads_q, p.dv)
    t["o"].copy_(o.transpose(1, 2))
    rooms = {}
    for name, (s, h, d) in {"grad_q": (p.len_q, p.heads_q, p.d), "grad_k": (p.len_kv, p.heads_kv, p.d), "grad_v": (p.len_kv, p.heads_kv, p.dv)}.items():
        t[name], rooms[name] = p.output(s, h, d)
    variant.run(t, lse.float().contiguous(), grad_lse, p.mask, p.scale)
    eps, share = EPS[p.dtype], 0.0
    for name, exact, rough in zip(("grad_q", "grad_k", "grad_v"), want, naive):
        got = t[name].transpose(1, 2).double()
        if not is_whole(rooms[name]):
            return f"a write outside {name}", share
        if not bool(got.isfinite().all()):
            return f"{name}: {int((~got.isfinite()).sum())} of {got.numel()} not finite, first {(~got.isfinite()).nonzero()[0].tolist()}", share
        norm = float(exact.norm())
        if got.numel() == 0:
            continue
        if norm <= 1e-9 * got.numel():
            # Rows that see one key: dS is the difference of two equal numbers, of which o was rounded. Rows and keys that see nothing: exactly zero.
            unseen = ~sees.any(dim=1) if name == "grad_q" else ~sees.any(dim=0)
            if not bool((got[:, :, unseen] == 0).all()) or not float(got.abs().max()) <= 64 * eps:
                return f"{name} must be zero", share
            continue
        error = float((got - exact).norm()) / norm
        bound = 2 * float((rough - exact).norm()) / norm + eps if bool(rough.isfinite().all()) else 16 * eps
        share = max(share, error / bound)
        if not error <= bound:
            where = ((got - exact).abs() > 4 * bound * exact.abs().mean() + 1e-3).nonzero()
            return f"{name}: relative error {error:.2e}, allowed {bound:.2e}; {len(where)} far off, first {where[0].tolist() if len(where) else '-'}", share
        largest = float((got - exact).abs().max()) / float(exact.abs().max())
        if not largest <= 24 * eps:
            return f"{name}: largest error {largest:.2e} of the largest element, allowed {24 * eps:.2e}", share
    return None, share


def exact_with_mask(q, k, v, grad_o, sees, scale):
    """One head, float64: log-sum-exp, o and the gradients, in which a masked pair takes part in no sum, not even as zero times NaN."""
    only = lambda terms: torch.where(sees[..., None], terms, torch.zeros_like(terms))
    scores = scale * (q[:, None, :] * k[None, :, :]).sum(-1)
    lse = torch.logsumexp(scores.masked_fill(~sees, -math.inf), dim=-1)
    p = torch.exp(scores - lse[:, None])
    o = only(p[..., None] * v[None]).sum(1)
    ds = p * ((grad_o[:, None, :] * v[None]).sum(-1) - (grad_o * o).sum(-1)[:, None])
    return lse, o, scale * only(ds[..., None] * k[None]).sum(1), scale * only(ds[..., None] * q[:, None]).sum(0), only(p[..., None] * grad_o[:, None]).sum(0)


def check_nonfinite(variant, dtype, tensor, value, element, mask):
    """A NaN or infinity in one row (or element) of an input must reach exactly the gradients that see it."""
    d, len_q, len_kv = variant.head_dim, 2 * variant.tile_q + 70, 300
    t = {n: torch.randn(1, s, 1, d, device="cuda").to(dtype) for n, s in (("q", len_q), ("k", len_kv), ("v", len_kv), ("grad_o", len_q))}
    row = t[tensor][0, 150, 0]
    row[5 if element else slice(None)] = value
    sees = visible(len_q, len_kv, mask)
    lse, o, *want = exact_with_mask(*(t[n][0, :, 0].double() for n in ("q", "k", "v", "grad_o")), sees, d ** -0.5)
    t["o"] = o[None, :, None].to(dtype)
    t.update({n: torch.full((1, s, 1, d), 7.0, device="cuda", dtype=dtype) for n, s in (("grad_q", len_q), ("grad_k", len_kv), ("grad_v", len_kv))})
    variant.run(t, lse[None, None].float().contiguous(), None, mask, d ** -0.5)
    for name, exact in zip(("grad_q", "grad_k", "grad_v"), want):
        got = t[name][0, :, 0].double()
        elsewhere = finite_elsewhere(got, exact)
        if elsewhere:
            return f"{name}: {elsewhere}"
        finite = exact.isfinite()
        error = float((got - exact)[finite].norm()) / max(float(exact[finite].norm()), 1e-3)
        if not error <= (0.01 if dtype == torch.float16 else 0.05):
            return f"{name}: relative error {error:.2e} of the finite elements"
    return None


def check_all_nonfinite(variant):
    """Number of failures and of checks."""
    failures, count = 0, 0
    for mask in (NONE, TOP_LEFT, BOTTOM_RIGHT):
        for tensor in ("q", "k", "v", "grad_o"):
            for value in (math.nan, math.inf, -math.inf):
                for element in (False, True):
                    count += 1
                    wrong = check_nonfinite(variant, torch.bfloat16 if count % 5 == 0 else torch.float16, tensor, value, element, mask)
                    if wrong:
                        failures += 1
                        if failures <= 6:
                            print(f"  {variant.name}: {value} in {tensor} {'element' if element else 'row'}, mask {mask}: {wrong}", flush=True)
    return failures, count


def problems_of(tile_q, tile_kv, d, full):
    out = [Problem("one tile", 1, tile_q, tile_kv, 1, 1, d, d, NONE), Problem("tiles", 1, 4 * tile_q, 3 * tile_kv, 1, 1, d, d, NONE)]
    queries = [1, 63, 64, tile_q - 1, tile_q, tile_q + 1, 3 * tile_q + 65]
    keys = [1, 64, tile_kv - 1, tile_kv, tile_kv + 1, 3 * tile_kv, 4 * tile_kv + 17]
    for i, len_q in enumerate(queries):
        for j, len_kv in enumerate(keys):
            for mask in (NONE, TOP_LEFT, BOTTOM_RIGHT):
                if full or (i + j + mask) % 4 == 0:
                    out.append(Problem("edge", 1, len_q, len_kv, 2, 1, d, d, mask))
    masks = (NONE, TOP_LEFT, BOTTOM_RIGHT)
    out += [Problem("heads", 3, 333, 777, 6, 2, d, d, mask, layout, grad_lse=True) for mask in masks for layout in ("bshd", "bhsd")]
    out += [Problem("long", 1, 2048, 2048, 4, 2, d, d, mask) for mask in (NONE, BOTTOM_RIGHT)]
    out += [Problem("bf16", 2, 300, 900, 4, 4, d, d, mask, dtype=torch.bfloat16) for mask in masks]
    out += [Problem("padded", 2, 200, 300, 3, 3, max(8, d - 8), max(8, d - 24), mask) for mask in masks]
    out += [Problem("sharp", 1, 500, 700, 2, 2, d, d, mask, gain=8.0) for mask in masks]
    out += [Problem("no keys", 1, 300, 0, 2, 2, d, d, NONE), Problem("no queries", 1, 0, 300, 2, 2, d, d, NONE)]
    out += [Problem("rows without keys", 2, 600, 100, 2, 2, d, d, BOTTOM_RIGHT), Problem("keys without rows", 2, 100, 600, 2, 2, d, d, TOP_LEFT)]
    return out


def check(variant, full):
    """Prints what fails; True if nothing does."""
    problems = problems_of(variant.tile_q, 128, variant.head_dim, full)
    failures, worst = 0, 0.0
    torch.manual_seed(1)
    for problem in problems:
        try:
            wrong, share = check_one(variant, problem)
            worst = max(worst, share)
        except RuntimeError as error:
            wrong = str(error)
        if wrong:
            failures += 1
            if failures <= 8:
                print(f"  {variant.name}: {problem.text()}: {wrong}", flush=True)
            if "CUDA error" in wrong or "unspecified" in wrong:
                raise SystemExit(f"{variant.name}: the device is in error, stopping")
    failures += 0 if check_repeats(variant) else 1
    if variant.deterministic:
        failures += 0 if check_deterministic(variant) else 1
    bad_nonfinite, num_nonfinite = check_all_nonfinite(variant)
    failures, count = failures + bad_nonfinite, len(problems) + 1 + int(variant.deterministic) + num_nonfinite
    print(f"{variant.name}: {count - failures} of {count} checks passed, worst error {worst:.2f} of its bound", flush=True)
    return failures == 0


def repeat_inputs(variant, p):
    """Random tensors and a log-sum-exp that need not fit them."""
    t = {n: p.input(s, h, p.d) for n, s, h in (("q", p.len_q, p.heads_q), ("k", p.len_kv, p.heads_kv), ("v", p.len_kv, p.heads_kv),
                                               ("grad_o", p.len_q, p.heads_q), ("o", p.len_q, p.heads_q))}
    return t, torch.randn(p.b, p.heads_q, p.len_q, device="cuda") + 8


def fresh_outputs(p):
    sizes = {"grad_q": (p.len_q, p.heads_q), "grad_k": (p.len_kv, p.heads_kv), "grad_v": (p.len_kv, p.heads_kv)}
    return {n: torch.full((p.b, s, h, p.d), math.nan, device="cuda", dtype=p.dtype) for n, (s, h) in sizes.items()}


def check_repeats(variant):
    """grad_k and grad_v are sums in a fixed order: bitwise equal from run to run. grad_q's order varies: equal up to rounding."""
    p = Problem("repeat", 2, 700, 900, 4, 4, variant.head_dim, variant.head_dim, BOTTOM_RIGHT)
    t, lse = repeat_inputs(variant, p)
    results = []
    for _ in range(10):
        t.update(fresh_outputs(p))
        variant.run(t, lse, None, p.mask, p.scale)
        results.append([t[n] for n in ("grad_q", "grad_k", "grad_v")])
    same = all(torch.equal(r[1], results[0][1]) and torch.equal(r[2], results[0][2]) for r in results)
    close = all(float((r[0].float() - results[0][0].float()).norm()) <= 1e-3 * float(results[0][0].float().norm()) for r in results)
    if not same or not close:
        print(f"  {variant.name}: repeats differ (grad_k and grad_v equal: {same}, grad_q close: {close})")
    return same and close


def check_deterministic(variant):
    """All gradients bitwise equal over 20 runs in deterministic mode, on three streams at once, so that blocks of several launches share the GPU."""
    sound = True
    streams = [torch.cuda.Stream() for _ in range(3)]
    for mask, heads_q, heads_kv, length, dtype in ((NONE, 8, 8, 2000, torch.float16), (BOTTOM_RIGHT, 8, 2, 2000, torch.bfloat16),
                                                   (TOP_LEFT, 40, 40, 500, torch.float16), (NONE, 2, 1, 17000, torch.bfloat16)):
        p = Problem("deterministic", 2, length - 30, length, heads_q, heads_kv, variant.head_dim, variant.head_dim, mask, dtype=dtype)
        t, lse = repeat_inputs(variant, p)
        torch.cuda.synchronize()
        calls = []
        for i in range(20):
            outputs = fresh_outputs(p)
            call = variant.call({**t, **outputs}, lse, None, p.mask, p.scale)
            call.stream = streams[i % 3].cuda_stream
            calls.append((call, [outputs[n] for n in ("grad_q", "grad_k", "grad_v")]))
        torch.cuda.synchronize()
        for call, _ in calls:
            variant.launch(call)
        torch.cuda.synchronize()
        differ = [n for i, n in enumerate(("grad_q", "grad_k", "grad_v")) if not all(torch.equal(r[i], calls[0][1][i]) for _, r in calls)]
        if differ or any(bool(x.isnan().any()) for x in calls[0][1]):
            sound = False
            print(f"  {variant.name}: deterministic mode, {p.text()}: not equal in 20 runs or NaN: {differ}")
    return sound
