"""The masked language model (Devlin et al. 2019, section 3.1, task 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from lmzoo import rng
from lmzoo.objectives.base import Objective, Prediction, Task
from lmzoo.objectives.config import MlmConfig
from lmzoo.types import NO_DOCUMENT, Batch, SpecialTokens

VALIDATION = MlmConfig()
"""Validation masks as BERT does, whatever the training rates, so that all runs predict the same."""


def mask_tokens(batch: Batch, config: MlmConfig, special: SpecialTokens, key: int) -> tuple[Tensor, Tensor]:
    """Choose the positions to predict, and what stands there instead.

    Each position but those of special tokens is chosen with ``mask_rate``; where a row would have
    none, its lowest draw is taken. Of the chosen, ``mask_share`` become ``[MASK]``,
    ``random_share`` a random token that is not special, the rest stay.

    Args:
        batch: (B, T) tokens with their rows' sample numbers.
        config: rate and shares.
        special: ids that are never chosen nor drawn.
        key: of the draws; row and position are the counters.

    Returns:
        (B, T) int64 corrupted tokens, and (B, T) bool, the chosen positions.
    """
    tokens = batch.tokens
    counters = rng.torch_counters(batch.samples, tokens.shape[1])
    free = batch.documents != NO_DOCUMENT
    for token in special.ids:
        free &= tokens != token
    draw = torch.where(free, rng.uniform(rng.key(key, "choose"), *counters), 2.0)
    chosen = draw < config.mask_rate
    none = ~chosen.any(1) & free.any(1)
    chosen |= none[:, None] & (draw == draw.amin(1, keepdim=True))
    fate = rng.uniform(rng.key(key, "fate"), *counters)
    assert special.mask is not None
    corrupted = torch.where(chosen & (fate < config.mask_share), special.mask, tokens)
    drawn = _ordinary_tokens(special, tokens.device)
    random = drawn[rng.integers(rng.key(key, "token"), len(drawn), *counters)]
    replaced = chosen & (fate >= config.mask_share) & (fate < config.mask_share + config.random_share)
    return torch.where(replaced, random, corrupted), chosen


def _ordinary_tokens(special: SpecialTokens, device: torch.device) -> Tensor:
    """(V - specials,) ids of the vocabulary without the special tokens."""
    ordinary = torch.ones(special.vocab_size, dtype=torch.bool, device=device)
    ordinary[list(special.ids)] = False
    return ordinary.nonzero().flatten()


class Mlm(Objective):
    """Masked tokens from full states, or from past and future together."""

    token_parts = ("mlm",)

    def prepare(self, batch: Batch, key: int, *, training: bool) -> Task:
        assert isinstance(self.config, MlmConfig)
        corrupted, chosen = mask_tokens(batch, self.config if training else VALIDATION, self.special, key)
        places = chosen.flatten().nonzero().flatten()
        prediction = Prediction(places, batch.tokens.flatten()[places])
        return Task(batch.replace(tokens=corrupted), {"mlm": prediction}, wanted=places)
