"""Attention with linear biases: a key counts for less the farther away it is (Press et al. 2022, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def slopes(num_heads: int) -> list[float]:
    """What a head takes off a score for each step of distance.

    A geometric sequence from 2^(-8/H) that ends at 2^-8; for a number of heads that is no power of two, that
    of the next smaller power, and between its members as many of the next larger one as are wanted.
    """
    power = 1 << (num_heads.bit_length() - 1)
    found = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2.0 ** (-4 * (2 * head + 1) / power) for head in range(num_heads - power)]
    return found + between


def biased(allowed: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: minus slope times distance where a key is allowed, else -inf.

    The paper's models see the past; where the future is seen too, it counts by its distance alike. Keys
    and queries of one document lie side by side, so that their distance in the row is that in the text.

    Args:
        allowed: (B or 1, 1, T, K) bool; the last query stands at the last key.
        num_heads: H.
        dtype: of the scores.

    Returns:
        (B or 1, H, T, K).
    """
    length, keys = allowed.shape[-2:]
    device = allowed.device
    places = torch.arange(keys - length, keys, device=device)[:, None]
    distance = (places - torch.arange(keys, device=device)).abs()
    by_head = torch.tensor(slopes(num_heads), device=device)[:, None, None]
    bias = (-by_head * distance).to(dtype)
    return bias.masked_fill(~allowed, float("-inf"))
