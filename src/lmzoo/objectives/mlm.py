"""The masked language model (Devlin et al. 2019, section 3.1, task 1)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmzoo import rng
from lmzoo.errors import LmzooError
from lmzoo.nn.boundary import BoundaryHead
from lmzoo.nn.config import ModelConfig
from lmzoo.objectives.base import Objective, Prediction, Scores, Task
from lmzoo.objectives.boundary import BoundaryPrediction, from_boundaries
from lmzoo.objectives.config import MlmConfig
from lmzoo.objectives.masking import (
    NGRAMS,
    SPANS,
    choose_spans,
    choose_tokens,
    choose_words,
    free_places,
    word_starts,
)
from lmzoo.objectives.word_list import WordList
from lmzoo.types import Batch, Context, Hidden, SpecialTokens

VALIDATION = MlmConfig()
"""Validation masks as BERT does, whatever the training rates, so that all runs predict the same."""


def mask_tokens(
    batch: Batch,
    config: MlmConfig,
    special: SpecialTokens,
    key: int,
    joints: Tensor | None = None,
    insides: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose the positions to predict, and what stands there instead.

    Each position but those of special tokens is chosen with ``mask_rate``, by the config's unit; where a row
    would have none, its lowest draw is taken. Of the chosen, ``mask_share`` become ``[MASK]``,
    ``random_share`` a random token that is not special, the rest stay.

    Args:
        batch: (B, T) tokens with their rows' sample numbers.
        config: rate, shares and unit.
        special: ids that are never chosen nor drawn.
        key: of the draws; row and position are the counters.
        joints: (V,) uint8 which ids make one word: see ``lmzoo.text.joints``; for words and spans.
        insides: (B, T) bool, what else goes on with the word before it: see ``WordList``.

    Returns:
        (B, T) int64 corrupted tokens, and (B, T) bool, the chosen positions.

    Raises:
        LmzooError: there are no ``joints`` where they are needed.
    """
    tokens = batch.tokens
    counters = rng.torch_counters(batch.samples, tokens.shape[1])
    free = free_places(batch, special)
    if config.unit == "token":
        found = choose_tokens(free, config.mask_rate, key, counters)
    else:
        if joints is None:
            raise LmzooError(
                f"objective.unit={config.unit} must know which tokens make a word; "
                "give joints=, as TextTokenizer.joints() has it"
            )
        first = word_starts(batch, free, joints, insides)
        if config.unit == "word":
            found = choose_words(free, first, config.mask_rate, key, counters)
        else:
            lengths = SPANS if config.unit == "span" else NGRAMS
            found = choose_spans(free, first, batch.documents, config.mask_rate, key, counters, lengths)
    chosen = found.places
    fate = rng.uniform(rng.key(key, "fate"), *counters)
    if config.unit != "ngram":  # whose pieces ALBERT's authors replace or keep one by one
        fate = fate.gather(1, found.owner)
    assert special.mask is not None
    corrupted = torch.where(chosen & (fate < config.mask_share), special.mask, tokens)
    drawn = _ordinary_tokens(special, tokens.device)
    random = drawn[rng.integers(rng.key(key, "token"), len(drawn), *counters)]
    replaced = chosen & (fate >= config.mask_share) & (fate < config.mask_share + config.random_share)
    return torch.where(replaced, random, corrupted), chosen


def at_share(config: MlmConfig, spent: float) -> MlmConfig:
    """The config at this share of the budget: its rate on the way from ``mask_rate`` to ``final_mask_rate``."""
    if config.final_mask_rate is None:
        return config
    rate = config.mask_rate + spent * (config.final_mask_rate - config.mask_rate)
    return replace(config, mask_rate=rate)


def _ordinary_tokens(special: SpecialTokens, device: torch.device) -> Tensor:
    """(V - specials,) ids of the vocabulary without the special tokens."""
    ordinary = torch.ones(special.vocab_size, dtype=torch.bool, device=device)
    ordinary[list(special.ids)] = False
    return ordinary.nonzero().flatten()


class Mlm(Objective):
    """Masked tokens from full states, or from past and future together.

    With ``span_boundary`` there is a second part, ``sbo``, added whole: the same tokens from around their spans
    (Joshi et al. 2020, section 3.2).
    """

    token_parts = ("mlm",)
    validation: ClassVar[MlmConfig] = VALIDATION

    def __init__(self, config: Any, model: ModelConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, model, *args, **kwargs)
        self.joints: Tensor | None
        self.register_buffer("joints", None, persistent=False)
        self.word_list: WordList | None = None
        streams = 2 if self.context is Context.APART else 1
        self.boundary_head = (
            BoundaryHead(model, streams=streams) if getattr(config, "span_boundary", False) else None
        )
        if self.boundary_head is not None:
            self.token_parts = ("mlm", "sbo")

    def tell_joints(self, joints: Tensor | None) -> None:
        """Take the (V,) table of which ids make one word, by which words and spans are found in training."""
        self.joints = joints

    def tell_words(self, words: WordList) -> None:
        """Take the words that the joints do not tell."""
        self.word_list = words

    @property
    def weights(self) -> dict[str, float]:
        return super().weights | dict.fromkeys(self.token_parts, 1.0)

    def prepare(self, batch: Batch, key: int, *, training: bool, spent: float = 1.0) -> Task:
        assert isinstance(self.config, MlmConfig)
        config = at_share(self.config, spent) if training else self.validation
        insides = self.word_list.insides(batch) if self.word_list is not None and training else None
        corrupted, chosen = mask_tokens(batch, config, self.special, key, self.joints, insides)
        places = chosen.flatten().nonzero().flatten()
        predictions = {"mlm": Prediction(places, batch.tokens.flatten()[places])}
        wanted = places
        if self.boundary_head is not None:
            around = predictions["sbo"] = from_boundaries(batch, chosen)
            wanted = torch.cat([places, around.left, around.right]).unique()
        sampled = self.token_loss.sample(key, training=training, spent=spent)
        return Task(batch.replace(tokens=corrupted), predictions, wanted=wanted, sampled=sampled)

    def decoded(self, hidden: Hidden, task: Task, part: str) -> Tensor:
        asked = task.predictions[part]
        if self.boundary_head is None or not isinstance(asked, BoundaryPrediction):
            return super().decoded(hidden, task, part)
        states = self.stream(hidden, part).flatten(0, 1)
        left, right = (states.index_select(0, side) for side in (asked.left, asked.right))
        return self.boundary_head(left, right, asked.offsets)

    def metrics(self, scores: Scores) -> dict[str, float | None]:
        """The perplexity is that of the masked tokens from their own states."""
        figures = super().metrics(scores)
        if figures["perplexity"] is not None and self.boundary_head is not None:
            figures["perplexity"] = math.exp(min(scores.parts["mlm"].mean or 0.0, 700.0))
        return figures

    def flops(self, task_counts: dict[str, int], rows: int) -> float:
        flops = super().flops(task_counts, rows)
        if self.boundary_head is None:
            return flops
        dense = 0 if self.head.dense is None else 2 * self.head.dense.weight.numel()
        return flops + task_counts["sbo"] * (self.boundary_head.flops_per_prediction() - dense)
