"""Dropout whose draws cost next to nothing on a CPU.

PyTorch draws a CPU's dropout masks one number after the other from a Mersenne twister: at 4 layers of 256
that was a quarter of a training step. Here a mask is a hash of its elements' numbers: SplitMix64 from a
key that the global generator gives, so that seeding that generator repeats the masks as before. One hash of
64 bits serves four elements. On other devices, and in compiled code, PyTorch's own kernels draw.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lmzoo.rng import fast_bits

_LANE = 16
"""Bits of an element's draw: a probability is met to 2^-17."""
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By their width in bytes, the integers that a mask and a number are joined as."""


def threshold_of(probability: float) -> int:
    """How many of the 2^16 draws drop."""
    return min(round(probability * 2**_LANE), 2**_LANE - 1)


def scale_of(probability: float) -> float:
    """What the kept are multiplied with: one over the share that is really kept."""
    return 2**_LANE / (2**_LANE - threshold_of(probability))


def draw_key() -> int:
    """A key for a mask, from the global generator."""
    return int(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64))


def keep_mask(key: int, shape: torch.Size, dtype: torch.dtype, probability: float, offset: int = 0) -> Tensor:
    """Integers as wide as ``dtype``: all bits set where an element is kept, none where it is dropped.

    Args:
        key: of the draws.
        shape: of the numbers to be masked.
        dtype: of the numbers to be masked.
        probability: that an element is dropped.
        offset: number of the first element, a multiple of 4, for a part of a larger mask.
    """
    count = shape.numel()
    lanes = fast_bits(key, offset // 4, -(-count // 4)).view(torch.int16)[:count].view(shape)
    kept = torch.empty(shape, dtype=_INTEGERS[dtype.itemsize])
    torch.ge(lanes, threshold_of(probability) - 2 ** (_LANE - 1), out=kept)
    return kept.neg_()


def masked(x: Tensor, keep: Tensor) -> Tensor:
    """``x`` where ``keep`` has its bits set, else 0 (also of NaN); not scaled."""
    return (x.view(keep.dtype) & keep).view(x.dtype)


def mask_(x: Tensor, keep: Tensor) -> Tensor:
    """The same in place."""
    x.view(keep.dtype).bitwise_and_(keep)
    return x


class _Dropout(torch.autograd.Function):
    """x ⊙ keep / (1 - p)."""

    @staticmethod
    def forward(ctx, x, probability):
        x = x.contiguous()
        keep = keep_mask(draw_key(), x.shape, x.dtype, probability)
        ctx.save_for_backward(keep)
        ctx.scale = scale_of(probability)
        return masked(x, keep).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        return masked(grad.contiguous(), keep).mul_(ctx.scale), None


class _AddDropped(torch.autograd.Function):
    """residual + x ⊙ keep / (1 - p), in the wider of both types."""

    @staticmethod
    def forward(ctx, residual, x, probability):
        x = x.contiguous()
        keep = keep_mask(draw_key(), x.shape, x.dtype, probability)
        ctx.save_for_backward(keep)
        ctx.scale, ctx.dtype = scale_of(probability), x.dtype
        return torch.add(residual, masked(x, keep), alpha=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[override]
        (keep,) = ctx.saved_tensors
        passed = grad.to(ctx.dtype, copy=True, memory_format=torch.contiguous_format)
        return grad, mask_(passed, keep).mul_(ctx.scale), None


def draws_here(x: Tensor) -> bool:
    """Whether masks of ``x`` are drawn by this file, and not by PyTorch."""
    return x.device.type == "cpu" and x.dtype.is_floating_point and not torch.compiler.is_compiling()


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014): in training, a share of the elements is 0 and the rest scaled up.

    Args:
        probability: that an element is dropped, 0 to 1, 1 excluded.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"a dropout of {probability} is no probability below 1")
        self.probability = probability

    @property
    def acts(self) -> bool:
        return self.training and self.probability > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.acts:
            return x
        if draws_here(x):
            return _Dropout.apply(x, self.probability)  # type: ignore[return-value]
        return F.dropout(x, self.probability)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` + dropout(``x``), both (..., D)."""
        if not self.acts:
            return residual + x
        if draws_here(x):
            return _AddDropped.apply(residual, x, self.probability)  # type: ignore[return-value]
        return residual + F.dropout(x, self.probability)

    def extra_repr(self) -> str:
        return f"{self.probability}"
