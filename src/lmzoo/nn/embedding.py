"""Tokens in, vectors out: token, position and segment tables, norm, dropout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.char_cnn import CharCnn
from lmzoo.nn.config import ModelConfig
from lmzoo.nn.dropout import Dropout
from lmzoo.nn.initial import draw_matrix
from lmzoo.nn.ngrams import NgramTable

Spelt = CharCnn | NgramTable
"""What makes a token's vector from its spelling."""


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

    Tokens come from a table, from their characters or from their n-grams. Rotary positions are not here: they act inside
    attention, so with ``positions="rotary"`` or ``"none"`` only tokens and segments are summed.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, characters: Tensor | None = None) -> None:
        """
        Args:
            config: the model's, complete.
            vocab_size: V.
            characters: (V, C) characters of every token, where ``config.is_spelt``.
        """
        super().__init__()
        assert config.hidden_size
        width = config.hidden_size
        self.positions = config.positions
        self.vocab_size = vocab_size
        if config.is_spelt:
            if characters is None or len(characters) != vocab_size:
                raise ValueError(
                    f"embedding={config.embedding} needs the characters of all {vocab_size} tokens"
                )
            kind = CharCnn if config.embedding == "characters" else NgramTable
            self.tokens: nn.Embedding | Spelt = kind(config, characters)
        else:
            self.tokens = nn.Embedding(vocab_size, width)
            self.tokens.weight.requires_grad_(not config.freeze_vectors)
        self.learned_positions = (
            nn.Embedding(config.max_positions or 0, width) if config.positions == "learned" else None
        )
        self.segments = nn.Embedding(config.num_segments, width) if config.num_segments else None
        self.norm = (
            nn.LayerNorm(width, eps=config.norm_eps, bias=norm_has_bias(config))
            if config.embedding_norm
            else nn.Identity()
        )
        self.dropout = Dropout(config.dropout)
        for table in (self.tokens, self.learned_positions, self.segments):
            if isinstance(table, nn.Embedding):
                draw_matrix(table.weight, config, config.table_std)

    def forward(
        self, tokens: Tensor, positions: Tensor, segments: Tensor | None = None, unseen: Tensor | None = None
    ) -> Tensor:
        """Embed (B, T) ids at (B, T) positions, with (B, T) segments or none, as (B, T, D).

        A model with a segment table reads rows without segments as segment A. ``unseen`` stands for
        the ids from V on; see ``Batch.unseen``.
        """
        x = self._embed_tokens(tokens, unseen)
        if self.learned_positions is not None:
            x = x + self.learned_positions(positions)
        elif self.positions == "sinusoidal":
            if isinstance(self.tokens, nn.Embedding):  # else waves of height 1 drown it
                x = x * math.sqrt(x.shape[-1])  # Vaswani et al. 2017, section 3.4
            x = x + sinusoids(positions, x.shape[-1]).to(x.dtype)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        return self.dropout(self.norm(x))

    def _embed_tokens(self, tokens: Tensor, unseen: Tensor | None) -> Tensor:
        if unseen is None:
            return self.tokens(tokens)
        if isinstance(self.tokens, Spelt):
            return self.tokens(tokens, unseen)
        return F.embedding(tokens, torch.cat([self.tokens.weight, unseen.to(self.tokens.weight)]))


def norm_has_bias(config: ModelConfig) -> bool:
    """Whether layer norms carry a bias: as the linear layers do."""
    return bool(getattr(config, "bias", False))
