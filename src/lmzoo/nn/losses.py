"""Cross-entropy through the vocabulary projection, without ever holding all the logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512
"""Rows of logits at a time: with 8,192 pieces in bf16, 8 MB, which stays in a CPU's cache."""
BLOCK = 3 * CHUNK
"""Rows whose probabilities are held at once, so that the weight's gradient is one product for all of them.

25 MB in the same setting: above 32 MB, glibc would map the memory anew for every step."""


class LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of -log softmax(x Wᵀ + b)[target], chunk by chunk.

    The gradients are made in the forward pass, while a chunk's probabilities are at hand, so that
    no logit is kept or computed twice.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, targets):
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            rows, matrix = x.to(dtype), weight.to(dtype)
            shift = None if bias is None else bias.to(dtype)
            grad_x = torch.empty_like(rows)
            grad_weight = torch.zeros_like(weight)
            grad_bias = None if bias is None else torch.zeros_like(bias)
            total = torch.zeros((), dtype=torch.float32, device=x.device)
            errors = rows.new_empty(min(BLOCK, len(rows)), len(weight))
            for block in range(0, len(rows), BLOCK):
                block_rows = rows[block : block + BLOCK]
                block_errors = errors[: len(block_rows)]
                for start in range(0, len(block_rows), CHUNK):
                    part = slice(block + start, block + min(start + CHUNK, len(block_rows)))
                    error = block_errors[start : start + CHUNK]
                    total += _errors(rows[part], matrix, shift, targets[part], out=error)
                    torch.mm(error, matrix, out=grad_x[part])
                grad_weight += torch.mm(block_errors.t(), block_rows)
                if grad_bias is not None:
                    grad_bias += block_errors.sum(0)
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        ctx.dtype = x.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total):  # type: ignore[override]
        grad_x, grad_weight, grad_bias = ctx.saved_tensors
        if grad_bias is not None:
            grad_bias = grad_bias * grad_total
        return (grad_x * grad_total).to(ctx.dtype), grad_weight * grad_total, grad_bias, None


def _errors(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, out: Tensor) -> Tensor:
    """Put softmax minus one-hot, (N, V), into ``out``; the summed nats, ()."""
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)
    torch.softmax(out, dim=-1, out=out)
    places = torch.arange(len(targets), device=targets.device) * out.shape[1] + targets
    chosen = out.view(-1)[places]
    out.view(-1)[places] = chosen - 1
    # the smallest normal number reads a loss above 87 nats as 87, never as infinite
    return -chosen.float().clamp_min(1.2e-38).log().sum()


def linear_cross_entropy(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Summed cross-entropy of the targets under softmax(x Wᵀ + b), with gradients.

    Args:
        x: (N, D) states to predict from.
        weight: (V, D).
        bias: (V,) or None.
        targets: (N,) int64.

    Returns:
        () float32, nats summed over N; 0 where N is 0.
    """
    return LinearCrossEntropy.apply(x, weight, bias, targets)  # type: ignore[return-value]


def smoothing_term(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float
) -> Tensor:
    """What label smoothing adds to the summed cross-entropy, () float32, with gradients.

    Szegedy et al. 2016, "Rethinking the inception architecture for computer vision", section 7: of the target's
    weight the share ``smoothing`` is spread evenly over all V ids. The loss is then the cross-entropy plus
    ``smoothing`` · Σ (z_target - mean z), which takes no pass over the logits.
    """
    over = weight[targets].float() - weight.float().mean(0)
    gap = (x.float() * over).sum()
    if bias is not None:
        gap = gap + (bias[targets] - bias.mean()).sum()
    return smoothing * gap


@torch.no_grad()
def scored_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, guesses: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The same for measuring: nats a row in full precision of the logits at hand, and first guesses.

    Args:
        x, weight, bias, targets: as of ``linear_cross_entropy``.
        guesses: whether the likeliest tokens are looked for, which takes a third as long again.

    Returns:
        (N,) float32 nats, and (N,) bool, whether the likeliest token is the target; None if not asked for.
    """
    nats = x.new_zeros(len(targets), dtype=torch.float32)
    hits = torch.zeros(len(targets), dtype=torch.bool, device=x.device) if guesses else None
    if torch.is_autocast_enabled(x.device.type):  # else once a chunk
        weight = weight.to(torch.get_autocast_dtype(x.device.type))
    for start in range(0, len(targets), CHUNK):
        target = targets[start : start + CHUNK]
        logits = F.linear(x[start : start + CHUNK], weight, bias).float()
        nats[start : start + CHUNK] = F.cross_entropy(logits, target, reduction="none")
        if hits is not None:
            hits[start : start + CHUNK] = logits.argmax(-1) == target
    return nats, hits


@torch.no_grad()
def sampled_tokens(x: Tensor, weight: Tensor, bias: Tensor | None, draws: Tensor) -> Tensor:
    """A token a row, drawn from softmax(x Wᵀ + b) by the inverse of its distribution function.

    One draw a row, and not one a token of the vocabulary as with Gumbel noise: they come from counters,
    which a CPU would take longer to hash than to train the rest.

    Args:
        x, weight, bias: as of ``linear_cross_entropy``.
        draws: (N,) float64 in [0, 1).

    Returns:
        (N,) int64.
    """
    found = torch.empty(len(draws), dtype=torch.long, device=x.device)
    for start in range(0, len(draws), CHUNK):
        part = slice(start, start + CHUNK)
        found[part] = drawn_tokens(F.linear(x[part], weight, bias), draws[part])
    return found


def drawn_tokens(logits: Tensor, draws: Tensor) -> Tensor:
    """(N,) int64 tokens from (N, V) logits at hand and (N,) draws."""
    heights = logits.float().softmax(-1).cumsum(-1)
    drawn = draws[:, None].to(heights.dtype) * heights[:, -1:]
    return torch.searchsorted(heights, drawn, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
