"""Parts of a task's items by a hash of what they are: the same for every model, seed and order of items."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmzoo.errors import LmzooError
from lmzoo.tasks.examples import Example, Labelled, Question, Tagged

STOP_FRACTION = 0.1
"""Of the training data, kept for early stopping and the choice of rates."""


@dataclass(frozen=True)
class Item:
    """An example with where it stands and what it must not be parted from."""

    example: Example
    where: str
    group: str
    """Items of one group fall into one part: those of one premise, one context, one text."""


def content(example: Example) -> tuple[str, ...]:
    """What an example asks, without its answer."""
    match example:
        case Labelled():
            return example.texts
        case Tagged():
            return example.words
        case Question():
            return (example.question, example.context)


def place_of(purpose: str, *parts: str) -> float:
    """A number in [0, 1) by SHA-256 of the parts; another ``purpose`` gives another order."""
    raw = "\x1f".join((purpose, *parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big") / 2**64


def cut(items: Sequence[Item], purpose: str, fraction: float) -> tuple[list[Item], list[Item]]:
    """The items whose group's hash lies above ``fraction``, and those below it; both keep their order.

    Neither is empty: from few groups the one of the lowest hash is taken.

    Raises:
        LmzooError: all items are of one group.
    """
    places = {item.group: place_of(purpose, item.group) for item in items}
    if len(places) < 2:
        raise LmzooError(
            f"{items[0].where}: nothing can be kept apart for {purpose}, since the part has "
            f"{'one item' if len(items) == 1 else 'items of one and the same text'}; give more, at least two"
        )
    ordered = sorted(places.values())
    # as many as the fraction says, but at least one group here and one there
    border = min(max(fraction, math.nextafter(ordered[0], 1)), ordered[-1])
    below = [item for item in items if places[item.group] < border]
    above = [item for item in items if places[item.group] >= border]
    return above, below


def first_by_hash(items: Sequence[Item], limit: int, purpose: str) -> list[Item]:
    """The ``limit`` items of the lowest hash, in the order of the file."""
    ranked = sorted(
        range(len(items)), key=lambda number: (place_of(purpose, *content(items[number].example)), number)
    )
    return [items[number] for number in sorted(ranked[:limit])]


_WORD = re.compile(r"\w+")


def _plain(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(" ".join(_WORD.findall(text.casefold())) or text for text in texts)


def seen_in_training(train: Sequence[Item], scored: Sequence[Item]) -> tuple[int, int]:
    """How many scored items stand in training too, and how many share one of their texts with it.

    Case, punctuation and white space do not count. A shared text is a premise, a hypothesis or a context; for
    items of a single text, and tagged sentences, the two numbers are one.
    """
    wholes = {_plain(content(item.example)) for item in train}
    parts = {text for item in train for text in _shareable(item.example)}
    same = sum(_plain(content(item.example)) in wholes for item in scored)
    sharing = sum(not parts.isdisjoint(_shareable(item.example)) for item in scored)
    return same, sharing


def _shareable(example: Example) -> tuple[str, ...]:
    match example:
        case Labelled():
            texts = example.texts
        case Tagged():
            texts = (" ".join(example.words),)
        case Question():
            texts = (example.context,)
    return tuple(text for text in _plain(texts) if text)
