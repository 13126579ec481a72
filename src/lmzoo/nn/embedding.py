"""Tokens in, vectors out: token, position and segment tables, norm, dropout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lmzoo.nn.config import ModelConfig


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5).

    Args:
        positions: (B, T) int64.
        width: D, even.

    Returns:
        (B, T, D): sines in the first half of the width, cosines in the second.
    """
    steps = torch.arange(width // 2, device=positions.device) / (width // 2)
    angles = positions[..., None] * torch.exp(-math.log(10000.0) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Embedding(nn.Module):
    """The embedding that all encoders share.

    Rotary positions are not here: they act inside attention, so with ``positions="rotary"`` or
    ``"none"`` only tokens and segments are summed.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        assert config.hidden_size
        width = config.hidden_size
        self.positions = config.positions
        self.tokens = nn.Embedding(vocab_size, width)
        self.learned_positions = (
            nn.Embedding(config.max_positions or 0, width) if config.positions == "learned" else None
        )
        self.segments = nn.Embedding(config.num_segments, width) if config.num_segments else None
        self.norm = (
            nn.LayerNorm(width, eps=config.norm_eps, bias=norm_has_bias(config))
            if config.embedding_norm
            else nn.Identity()
        )
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.tokens, self.learned_positions, self.segments):
            if table is not None:
                nn.init.normal_(table.weight, std=config.table_std)

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        """Embed (B, T) ids at (B, T) positions, with (B, T) segments or none, as (B, T, D)."""
        x = self.tokens(tokens)
        if self.learned_positions is not None:
            x = x + self.learned_positions(positions)
        elif self.positions == "sinusoidal":
            x = x + sinusoids(positions, x.shape[-1]).to(x.dtype)
        if self.segments is not None and segments is not None:
            x = x + self.segments(segments)
        return self.dropout(self.norm(x))


def norm_has_bias(config: ModelConfig) -> bool:
    """Whether layer norms carry a bias: as the linear layers do."""
    return bool(getattr(config, "bias", False))
