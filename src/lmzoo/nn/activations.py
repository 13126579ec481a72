"""What stands between the two layers of a feed-forward block, with gradients that suit a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmzoo.nn.dropout import draws_here

_BLOCK = 2**17
"""Numbers worked on at a time in 32 bits: half a megabyte a buffer, which stays in cache."""
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = _LINEAR * 0.044715


class _GeluTanh(torch.autograd.Function):
    """x · σ(2√(2/π) (x + 0.044715 x³)), with its derivative worked out beside it.

    PyTorch's kernel calls a hyperbolic tangent, which on a CPU costs more than a sigmoid, and calls it again
    for the gradient.
    """

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        out, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        flat_x, flat_out = x.view(-1), out.view(-1)
        flat_slope = None if slope is None else slope.view(-1)
        size = min(_BLOCK, x.numel())
        buffers = [x.new_empty(size, dtype=torch.float32) for _ in range(3)]
        for start in range(0, x.numel(), _BLOCK):
            part = slice(start, start + _BLOCK)
            number, sigmoid, inner = (buffer[: len(flat_x[part])] for buffer in buffers)
            number.copy_(flat_x[part])
            torch.mul(number, number, out=sigmoid)
            if flat_slope is not None:
                torch.mul(sigmoid, 3 * _CUBIC, out=inner).add_(_LINEAR).mul_(number)
            sigmoid.mul_(_CUBIC).add_(_LINEAR).mul_(number).sigmoid_()
            torch.mul(number, sigmoid, out=flat_out[part])
            if flat_slope is not None:
                # σ + σ (1 - σ) x · d(inner)/dx
                torch.mul(sigmoid, sigmoid, out=number)
                torch.sub(sigmoid, number, out=number)
                torch.addcmul(sigmoid, number, inner, out=number)
                flat_slope[part].copy_(number)
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return grad * slope


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


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation of GELU by a hyperbolic tangent, elementwise (Hendrycks and Gimpel 2016, section 2)."""
    if draws_here(x):
        return _GeluTanh.apply(x)  # type: ignore[return-value]
    return F.gelu(x, approximate="tanh")


def geglu(x: Tensor) -> Tensor:
    """(..., 2·F) to (..., F): the GELU of one half gated by the other (Shazeer 2020, equation 6)."""
    if draws_here(x):
        return _GeGlu.apply(x)  # type: ignore[return-value]
    raised, gate = x.chunk(2, dim=-1)
    return F.gelu(raised) * gate


ACTIVATIONS = cast(
    dict[str, Callable[[Tensor], Tensor]],
    {"relu": F.relu, "gelu": F.gelu, "geglu": geglu, "gelu_tanh": gelu_tanh},
)
GATED = ("geglu",)
"""Activations that take twice the width that they give."""
