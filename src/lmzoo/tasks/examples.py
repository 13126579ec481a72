"""A task's items as everybody here knows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmzoo.tasks.config import TaskConfig


@dataclass(frozen=True)
class Labelled:
    """One text, or two, with a label or a number."""

    id: str
    texts: tuple[str, ...]
    label: str | float


@dataclass(frozen=True)
class Tagged:
    """A sentence of words with a tag each."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    text: str | None = None
    """As it was written, where the file says; else the words joined by spaces (by nothing in Chinese)."""


@dataclass(frozen=True)
class Question:
    """A question about a context; an answer is (text, start in the context in characters)."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]


Example = Labelled | Tagged | Question


@dataclass
class TaskData:
    """A task, read."""

    config: TaskConfig
    train: list[Example]
    """To learn from."""
    stop: list[Example]
    """Cut from the training data: for early stopping and the choice of rates. Never scored."""
    scored: list[Example]
    """The official dev or test part, for the score alone."""
    scored_part: str
    """Which part that is: `valid`, `test` or `split`."""
    labels: list[str]
    """Empty for a regression and for spans."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was cut, skipped or mended while reading, by what it was: goes into the result."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the score must know: overlaps with pretraining text, parts that were split here."""
    hash: str = ""
    """SHA-256 of the scored items."""
