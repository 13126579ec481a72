"""What stands between the two layers of a feed-forward block, with gradients that suit a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmzoo.nn.dropout import draws_here


class _GeGlu(torch.autograd.Function):
    """gelu(a) ⊙ b of (..., 2·F), its halves laid apart first: kernels are slow on halves of rows."""

    @staticmethod
    def forward(ctx, x):
        raised, gate = (half.contiguous() for half in x.chunk(2, dim=-1))
        ctx.save_for_backward(raised, gate)
        return F.gelu(raised).mul_(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        raised, gate = ctx.saved_tensors
        together = grad.new_empty(*grad.shape[:-1], 2 * grad.shape[-1])
        of_raised, of_gate = together.chunk(2, dim=-1)
        of_gate.copy_(F.gelu(raised).mul_(grad))
        of_raised.copy_(torch.ops.aten.gelu_backward(gate.mul(grad), raised))
        return together


def geglu(x: Tensor) -> Tensor:
    """(..., 2·F) to (..., F): the GELU of one half gated by the other (Shazeer 2020, equation 6)."""
    # in 32 bits, PyTorch's GELU of numbers that lie together is another approximation than that of halves of
    # rows, by 1e-7, which transformers takes: parity is worth more there than speed
    if draws_here(x) and x.dtype.itemsize == 2:
        return _GeGlu.apply(x)  # type: ignore[return-value]
    raised, gate = x.chunk(2, dim=-1)
    return F.gelu(raised) * gate


def swiglu(x: Tensor) -> Tensor:
    """(..., 2·F) to (..., F): x σ(x) of one half gated by the other (Shazeer 2020, equation 6)."""
    raised, gate = x.chunk(2, dim=-1)
    return F.silu(raised) * gate


ACTIVATIONS = cast(
    dict[str, Callable[[Tensor], Tensor]],
    {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": partial(F.gelu, approximate="tanh"),
        "geglu": geglu,
        "swiglu": swiglu,
    },
)
GATED = ("geglu", "swiglu")
"""Activations that take twice the width that they give."""
