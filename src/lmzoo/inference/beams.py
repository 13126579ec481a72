"""Beam search, by the rules of transformers' ``generate`` with ``early_stopping=False``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Beam:
    """A continuation that is still growing, or one that has ended."""

    tokens: tuple[int, ...]
    """The new ones."""
    score: float
    """Summed log-probability in nats; of one that has ended, divided by length ** penalty."""
    parent: int = 0
    """Its place among the beams of the step before."""


@dataclass
class BeamSearch:
    """The beams of one prompt.

    A step takes the 2 · ``num_beams`` likeliest continuations of all beams together: those among the
    first ``num_beams`` that end are kept aside with their score, and the likeliest that do not end go
    on. It is over when the best beam, at its present length, scores below all ``num_beams`` that ended.
    """

    num_beams: int
    length_penalty: float
    max_new_tokens: int
    ending: int
    """The id that ends a text."""
    stops: Callable[[tuple[int, ...]], bool]
    """Whether new tokens end the text in another way."""
    running: list[Beam] = field(default_factory=lambda: [Beam((), 0.0)])
    finished: list[Beam] = field(default_factory=list)
    """At most ``num_beams``, the best first."""
    is_over: bool = False

    def step(self, logits: Tensor) -> None:
        """Go on by a token.

        Args:
            logits: (beams, V) of the next token of every running beam.
        """
        vocab_size = logits.shape[-1]
        totals = (
            logits.log_softmax(-1)
            + torch.tensor([beam.score for beam in self.running], dtype=logits.dtype, device=logits.device)[
                :, None
            ]
        )
        scores, places = totals.flatten().topk(min(2 * self.num_beams, totals.numel()))
        running, ended = [], []
        for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
            parent, token = divmod(place, vocab_size)
            beam = Beam((*self.running[parent].tokens, token), score, parent)
            length = len(beam.tokens)
            if token != self.ending and length < self.max_new_tokens and not self.stops(beam.tokens):
                running.append(beam)
            elif rank < self.num_beams:
                ended.append(Beam(beam.tokens, score / length**self.length_penalty))
        self.finished = sorted([*self.finished, *ended], key=lambda beam: -beam.score)[: self.num_beams]
        self.running = running[: self.num_beams]
        self.is_over = not self.running or not self._can_improve()

    def _can_improve(self) -> bool:
        best = self.running[0]
        possible = best.score / len(best.tokens) ** self.length_penalty
        return len(self.finished) < self.num_beams or possible > self.finished[-1].score
