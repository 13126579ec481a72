"""ELMo's embedding of words by their characters (Peters et al. 2018, section 3.4).

Convolutions of several widths over the characters' vectors, the largest answer of each filter, highway
layers (Srivastava, Greff and Schmidhuber 2015, equation 3) and a projection: the character-aware model of
Kim et al. 2016, section 3. A word costs the same however often it stands in a batch, because only the
distinct ids of a batch are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.config import ModelConfig
from lmzoo.types import SpecialTokens

# The published model's numbering: 0 to 255 are the bytes of a token's UTF-8 spelling.
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PADDING = 256, 257, 258, 259, 260
MASKED = 261
"""Stands for `[MASK]`, which the published model did not have."""
NUM_CHARACTERS = 262


def spell(spellings: Sequence[bytes], signs: Mapping[int, int], length: int) -> Tensor:
    """The character ids of tokens.

    Args:
        spellings: UTF-8 bytes of each token.
        signs: the one character that stands for a special token, by the token's place in ``spellings``;
            ``PADDING`` leaves a token without any character.
        length: characters a token at most, the two borders included; the end of a longer spelling is cut.

    Returns:
        (len(spellings), length) int32: border, bytes, border, padding.
    """
    table = torch.full((len(spellings), length), PADDING, dtype=torch.int32)
    for i, spelling in enumerate(spellings):
        sign = signs.get(i)
        if sign == PADDING:
            continue
        inner = [sign] if sign is not None else list(spelling[: length - 2])
        table[i, : len(inner) + 2] = torch.tensor([BEGIN_WORD, *inner, END_WORD], dtype=torch.int32)
    return table


def characters_of(spellings: Sequence[bytes], special: SpecialTokens, length: int) -> Tensor:
    """The characters of a whole vocabulary.

    Args:
        spellings: UTF-8 bytes of every token.
        special: which tokens are a sign instead: `[CLS]` begins a sentence, `[SEP]` ends it.
        length: ``ModelConfig.characters_per_token``.

    Returns:
        (V, length) int32.
    """
    signs = {special.cls: BEGIN_SENTENCE, special.sep: END_SENTENCE, special.pad: PADDING}
    if special.mask is not None:
        signs[special.mask] = MASKED
    return spell(spellings, signs, length)


class Highway(nn.Module):
    """g·x + (1 - g)·ReLU(W x + b), with the carry gate g = sigmoid(W' x + b')."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.carry = nn.Linear(width, width)
        for layer in (self.transform, self.carry):
            nn.init.normal_(layer.weight, std=width**-0.5)
        nn.init.zeros_(self.transform.bias)
        # bilm-tf starts its gate, which is the other path's share, at -2: mostly carried
        nn.init.constant_(self.carry.bias, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.carry(x))
        return gate * x + (1 - gate) * F.relu(self.transform(x))


class CharCnn(nn.Module):
    """Token ids to vectors through their characters; takes the seat of the token table."""

    def __init__(self, config: ModelConfig, characters: Tensor) -> None:
        """
        Args:
            config: with ``filters``, ``num_highway`` and ``hidden_size`` filled.
            characters: (V, C) the characters of every token; see ``spell``.
        """
        super().__init__()
        assert config.hidden_size and config.filters and config.num_highway is not None
        self.num_embeddings = len(characters)
        total = sum(config.filters)
        self.characters = nn.Embedding(NUM_CHARACTERS, config.character_size)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.character_size, count, width) for width, count in enumerate(config.filters, 1)
        )
        self.highways = nn.ModuleList(Highway(total) for _ in range(config.num_highway))
        self.projection = nn.Linear(total, config.hidden_size)
        self.register_buffer("spelling", characters.int())
        # all of them bilm-tf's
        nn.init.uniform_(self.characters.weight, -1.0, 1.0)
        for convolution in self.convolutions:
            nn.init.uniform_(convolution.weight, -0.05, 0.05)  # type: ignore[arg-type]
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.projection.weight, std=total**-0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, tokens: Tensor, unseen: Tensor | None = None) -> Tensor:
        """Embed (B, T) ids as (B, T, D); ids from V on are spelt by the rows of ``unseen`` (E, C)."""
        distinct, places = torch.unique(tokens, return_inverse=True)
        spelling: Tensor = self.spelling  # type: ignore[assignment]
        if unseen is not None:
            spelling = torch.cat([spelling, unseen.to(spelling)])
        vectors = self.embed_characters(spelling[distinct])
        return F.embedding(places, vectors)

    def embed_characters(self, characters: Tensor) -> Tensor:
        """(N, C) characters to (N, D)."""
        x = self.characters(characters.long()).transpose(1, 2)  # (N, 16, C)
        x = torch.cat([F.relu(convolve(x).amax(-1)) for convolve in self.convolutions], dim=-1)
        for highway in self.highways:
            x = highway(x)
        return self.projection(x)

    def flops_per_word(self) -> int:
        """Floating-point operations of one forward pass a distinct token."""
        length = int(self.spelling.shape[1])  # type: ignore[index]
        flops = 0
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv1d)
            flops += 2 * convolution.weight.numel() * (length - convolution.kernel_size[0] + 1)
        matrices = [p for highway in self.highways for p in highway.parameters() if p.dim() == 2]
        return flops + 2 * sum(matrix.numel() for matrix in [*matrices, self.projection.weight])
