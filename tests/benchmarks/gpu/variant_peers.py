"""What variants.py compares with: compiled FlexAttention, PyTorch's fused attention with a bias, eager attention; all through autograd."""
import math

import torch


class Autograd:
    """A function of (q, k, v, bias), tensors (batch, heads, length, head_dim), with gradients by autograd."""

    def __init__(self, problem, inputs):
        self.q, self.k, self.v = (t.transpose(1, 2).contiguous().requires_grad_() for t in inputs[:3])
        self.grad_o = inputs[3].transpose(1, 2).contiguous()
        self.bias = problem.bias
        self.leaves = [self.q, self.k, self.v]
        if self.bias is not None:
            self.leaves.append(self.bias.requires_grad_())
        self.out = None

    def attend(self):
        raise NotImplementedError

    def call(self, what):
        if what == "forward":
            return self.attend
        self.out = self.attend()
        return lambda: torch.autograd.grad(self.out, self.leaves, self.grad_o, retain_graph=True)

    def results(self, passes):
        found = {"o": self.attend().detach().transpose(1, 2)}
        if "backward" in passes:
            gradients = self.call("backward")()
            found |= {n: g.transpose(1, 2) for n, g in zip(("grad_q", "grad_k", "grad_v"), gradients)}
            found["grad_bias"] = gradients[3] if self.bias is not None else None
        self.out = None
        return found


class Flex(Autograd):
    """torch.compile(flex_attention) with its default settings. The block mask is made beforehand: it costs no time here."""

    compiled = None

    def __init__(self, problem, inputs):
        super().__init__(problem, inputs)
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        if Flex.compiled is None:
            from torch._functorch import config

            # Donated buffers would forbid a second backward pass over one graph.
            config.donated_buffer = False
            Flex.compiled = staticmethod(torch.compile(flex_attention, dynamic=False))
        self.score_mod, self.block_mask = problem.score_mod, None
        if problem.mask_mod is not None:
            self.block_mask = create_block_mask(problem.mask_mod, problem.batch, None, problem.length, problem.length, device=self.q.device)

    def attend(self):
        return Flex.compiled(self.q, self.k, self.v, score_mod=self.score_mod, block_mask=self.block_mask)


class Fused(Autograd):
    """scaled_dot_product_attention with one backend and the bias as its mask."""

    backend = None

    def attend(self):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        bias = self.bias.expand(self.q.shape[0], *self.bias.shape[1:])
        with sdpa_kernel(getattr(SDPBackend, self.backend)):
            return torch.nn.functional.scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=bias)


class Efficient(Fused):
    backend = "EFFICIENT_ATTENTION"


class Cudnn(Fused):
    backend = "CUDNN_ATTENTION"


class Eager(Autograd):
    def attend(self):
        return torch.softmax(self.q @ self.k.transpose(-1, -2) / math.sqrt(self.q.shape[-1]) + self.bias, -1) @ self.v


PEERS = {"flex": Flex, "efficient": Efficient, "cudnn": Cudnn, "eager": Eager}
