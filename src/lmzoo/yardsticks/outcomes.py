"""What became of pairs of sentences, of which one should be the likelier, group by group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lmzoo.inference.engine import Engine
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.counted import Counted, control, sentence_nats
from lmzoo.yardsticks.likelihoods import SentenceScore

_COUNTED_AT_A_TIME = 4000


@dataclass
class Outcomes:
    """What became of pairs, group by group, in every way of scoring; equal scores are wrong, and counted."""

    ways: tuple[str, ...]
    """The first is the one that counts."""
    correct: dict[str, dict[str, int]] = field(default_factory=dict)
    """Right ones by group and way."""
    count: dict[str, int] = field(default_factory=dict)
    ties: int = 0
    cut: int = 0
    """Sentences that were longer than the model reads, and cut."""
    unknown: int = 0
    """Tokens that the vocabulary does not have, over all sentences."""
    empty: int = 0
    """Sentences of which the tokenizer left no token."""

    def add(self, group: str, good: SentenceScore, bad: SentenceScore) -> dict[str, Any]:
        """Count a pair; what its item says of it. What is told of its sentences is counted by ``see``."""
        right = {way: good.tokens > 0 and good.nats[way] > bad.nats[way] for way in self.ways}
        by_way = self.correct.setdefault(group, dict.fromkeys(self.ways, 0))
        for way in self.ways:
            by_way[way] += right[way]
        self.count[group] = self.count.get(group, 0) + 1
        self.ties += good.nats[self.ways[0]] == bad.nats[self.ways[0]]
        first, *others = self.ways
        scores = {"good": good.nats[first], "bad": bad.nats[first], "correct": right[first]}
        return scores | {way: right[way] for way in others}

    def see(self, *sentences: SentenceScore) -> None:
        """Count what is told of sentences."""
        for sentence in sentences:
            self.cut += sentence.cut
            self.unknown += sentence.unknown
            self.empty += sentence.tokens == 0

    def accuracy(self, way: str | None = None, groups: Iterable[str] | None = None) -> float:
        """Mean over groups (all of them by default) of the percentage of right pairs."""
        chosen = list(self.count if groups is None else groups)
        way = way or self.ways[0]
        return 100 * sum(self.correct[g][way] / self.count[g] for g in chosen) / len(chosen)

    def over_pairs(self) -> float:
        """Percentage of right pairs among all."""
        return 100 * sum(by_way[self.ways[0]] for by_way in self.correct.values()) / sum(self.count.values())

    def told(self) -> dict[str, int]:
        """What a reader of the figure must know of the sentences."""
        return {
            "ties": self.ties,
            "cut": self.cut,
            "unknown_tokens": self.unknown,
            "without_tokens": self.empty,
        }


def judged_by_control(
    engine: Engine, asked: Asked, pairs: Iterable[tuple[str, str, str]], items: list[dict[str, Any]]
) -> tuple[dict[str, Any], Outcomes | None]:
    """What the n-gram model of the training text has on the same pairs; every item says so too.

    Args:
        engine: the model beside which it stands.
        asked: with the n-gram model, or without.
        pairs: group, acceptable sentence and the other, of every item in order.
        items: to which `ngram` is added, whether it was right.

    Returns:
        what is told of it, and its outcomes; None where there is no such model.
    """
    counted = control(asked, engine)
    if not isinstance(counted, Counted):
        return counted, None
    outcomes, left, rest = Outcomes(("log_likelihood",)), iter(items), iter(pairs)
    while some := list(islice(rest, _COUNTED_AT_A_TIME)):
        nats = sentence_nats(counted, engine, [text for _, *both in some for text in both])
        for (group, _, _), good, bad in zip(some, nats[::2], nats[1::2], strict=True):
            scores = (SentenceScore({"log_likelihood": float(each)}, 1, 0, False) for each in (good, bad))
            next(left)["ngram"] = outcomes.add(group, *scores)["correct"]
    return counted.told(outcomes.accuracy()) | {"ties": outcomes.ties}, outcomes
