"""A task's items as rows of ids, with the places in them that the task asks about.

Sentences are one row and are cut where they are too long. A pair is one row ``[CLS] a [SEP] b [SEP]``
(BERT), or two rows that are compared by their vectors. Words are found in the tokens by their places in the
text, and long sentences and contexts are read in windows that overlap; each word, and each token of a
context, is judged in the window where it has most context on its poorer side (Devlin et al.'s
``run_squad.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lmzoo.errors import LmzooError
from lmzoo.inference.engine import BUCKET_CHARACTERS, BUCKET_TEXTS, Engine
from lmzoo.inference.reading import Offsets, Reader
from lmzoo.inference.sources import slow_progress
from lmzoo.tasks.examples import Example, Labelled, Question, Tagged
from lmzoo.tasks.spans import NOT_THERE
from lmzoo.tasks.windows import best_windows, pieces_of_words, windows, word_places

QUESTION_TOKENS = 64
"""A question's tokens at most (``run_squad.py``), and never more than half of a row."""
USUAL_LENGTH = 512
"""Tokens of a row where nobody says on what the model was trained."""


@dataclass(frozen=True)
class Frame:
    """How items become rows."""

    limit: int
    """Tokens of a row at most, special ones included."""
    stride: int | None = None
    """By how many tokens windows move on; half of a window by default."""
    together: bool = False
    """Whether a pair is one row."""
    closing: bool = True
    """Whether rows end with [SEP]."""


@dataclass(frozen=True)
class Window:
    """What a row holds of a question's context."""

    begin: int
    """Position in the row of its first token of the context."""
    places: np.ndarray
    """(n, 2) start and end of each of those tokens in the context, in characters."""
    best: np.ndarray
    """(n,) bool: whether the token has most context in this row; true in exactly one row a token."""
    answer: tuple[int, int] | None
    """Positions in the row of the first and last token of the first answer; (0, 0) where the window does
    not hold it whole, None where there is none to learn from."""


@dataclass
class Framed:
    """Items as rows."""

    rows: list[list[int]] = field(default_factory=list)
    """Ids, special tokens included; V, V + 1, … are rows of ``unseen``."""
    second: list[int] = field(default_factory=list)
    """Where segment B begins in each row; the row's length where it has none."""
    first_row: list[int] = field(default_factory=lambda: [0])
    """(items + 1): item i has the rows first_row[i] to first_row[i + 1]."""
    words: list[np.ndarray] = field(default_factory=list)
    """Tagging: (W, 3) an item: row of each word, its first position, one past its last; row -1 where the
    word became no sub-word."""
    windows: list[Window] = field(default_factory=list)
    """Questions: one a row."""
    unseen: Tensor | None = None
    """See ``Batch.unseen``."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was cut or parted, by what it was."""

    def add(self, row: list[int], second: int | None = None) -> None:
        self.rows.append(row)
        self.second.append(len(row) if second is None else second)


def row_limit(engine: Engine, asked: int | None, task: int | None, trained: int | None) -> int:
    """Tokens of a row at most.

    Args:
        engine: whose table of positions bounds it.
        asked: what the command line says.
        task: what the task says.
        trained: the longest rows that the model was trained on.

    Raises:
        LmzooError: more is asked for than the model can read.
    """
    most = engine.max_length
    if most is not None and asked is not None and asked > most:
        raise LmzooError(f"max_length={asked} is more than the {most} positions of this model; lower it")
    chosen = asked or task or trained or USUAL_LENGTH
    return chosen if most is None else min(chosen, most)


def frame(engine: Engine, reader: Reader, items: Sequence[Example], how: Frame, joint: str = " ") -> Framed:
    """Items of one shape as rows.

    Args:
        engine: whose special tokens stand around the texts.
        reader: of the engine's tokenizer, without a bound on the length.
        items: all ``Labelled`` with one text or all with two, all ``Tagged`` or all ``Question``.
        how: see ``Frame``.
        joint: what stands between words where a sentence's text is not known; nothing in Chinese.

    Raises:
        LmzooError: rows are too short for what belongs in them.
    """
    build = _Build(engine, how)
    if isinstance(items[0], Tagged):
        build.tagged(reader, items, joint)  # type: ignore[arg-type]
    elif isinstance(items[0], Question):
        build.questions(reader, items)  # type: ignore[arg-type]
    else:
        build.labelled(reader, items)  # type: ignore[arg-type]
    return build.framed


@dataclass(frozen=True)
class _Read:
    inputs: list[list[int]]
    offsets: list[Offsets]
    unseen: Tensor | None


def _read(reader: Reader, texts: Sequence[str], first_unseen: int, *, offsets: bool) -> _Read:
    """All texts, read some at a time: an encoding takes some hundred times the memory of its text."""
    inputs: list[list[int]] = []
    places: list[Offsets] = []
    unseen: list[Tensor] = []
    with slow_progress("reading the task", len(texts)) as advance:
        for held in _some(texts):
            found = reader.read(held, offsets=offsets)
            shift = sum(map(len, unseen))
            if shift:
                inputs += [[i + shift if i >= first_unseen else i for i in ids] for ids in found.inputs]
            else:
                inputs += found.inputs
            places += found.offsets
            if found.unseen is not None:
                unseen.append(found.unseen)
            advance(len(held))
    return _Read(inputs, places, torch.cat(unseen) if unseen else None)


def _some(texts: Sequence[str]) -> Iterator[list[str]]:
    held: list[str] = []
    characters = 0
    for text in texts:
        held.append(text)
        characters += len(text)
        if characters >= BUCKET_CHARACTERS or len(held) == BUCKET_TEXTS:
            yield held
            held, characters = [], 0
    if held:
        yield held


class _Build:
    def __init__(self, engine: Engine, how: Frame) -> None:
        self.how = how
        self.cls, self.sep = engine.special.cls, engine.special.sep
        self.before = [self.cls] * engine.opening
        self.after = [self.sep] * how.closing
        self.first_unseen = engine.backbone.embedding.vocab_size
        self.framed = Framed()
        self.room = how.limit - len(self.before) - len(self.after)
        """Tokens of a single text."""
        if self.room < 4:
            raise LmzooError(f"max_length={how.limit} leaves no room for a text; give at least 8")

    def _end_item(self) -> None:
        self.framed.first_row.append(len(self.framed.rows))

    def _row(self, ids: list[int]) -> list[int]:
        return [*self.before, *ids, *self.after] or [self.cls]

    def labelled(self, reader: Reader, items: Sequence[Labelled]) -> None:
        read = _read(reader, [t for item in items for t in item.texts], self.first_unseen, offsets=False)
        self.framed.unseen = read.unseen
        texts = iter(read.inputs)
        for item in items:
            parts = [next(texts) for _ in item.texts]
            if len(parts) == 2 and self.how.together:
                self._pair(*parts)
            else:
                for ids in parts:
                    self.framed.counts["texts_cut"] += len(ids) > self.room
                    self.framed.add(self._row(ids[: self.room]))
            self._end_item()

    def _pair(self, first: list[int], second: list[int]) -> None:
        """The longer of the two is cut, token by token, as in BERT."""
        lengths = [len(first), len(second)]
        while sum(lengths) > self.room - 1:
            lengths[lengths[0] < lengths[1]] -= 1
        self.framed.counts["texts_cut"] += (lengths[0] < len(first)) + (lengths[1] < len(second))
        row = [*self.before, *first[: lengths[0]], self.sep]
        self.framed.add([*row, *second[: lengths[1]], *self.after], len(row))

    def tagged(self, reader: Reader, items: Sequence[Tagged], joint: str) -> None:
        found = [word_places(item, joint) for item in items]
        read = _read(reader, [text for text, _ in found], self.first_unseen, offsets=True)
        framed, counts = self.framed, self.framed.counts
        framed.unseen = read.unseen
        for (text, places), ids, offsets in zip(found, read.inputs, read.offsets, strict=True):
            pieces = pieces_of_words(text, offsets, places)
            bounds = windows(len(ids), self.room, self.how.stride)
            base = len(framed.rows)
            for begin, end in bounds:
                framed.add(self._row(ids[begin:end]))
            inside = best_windows(bounds, pieces[:, 0])
            starts = np.array([begin for begin, _ in bounds])[inside]
            ends = np.minimum(pieces[:, 1], np.array([end for _, end in bounds])[inside])
            shift = len(self.before) - starts
            known = pieces[:, 0] >= 0
            words = np.stack([base + inside, pieces[:, 0] + shift, ends + shift], axis=1)
            words[~known] = -1
            framed.words.append(words)
            counts["words_without_subword"] += int((~known).sum())
            repeated = (pieces[1:, 0] == pieces[:-1, 0]) & known[1:]
            counts["words_sharing_subword"] += int(repeated.sum())
            self._count_windows(bounds)
            self._end_item()

    def _count_windows(self, bounds: list[tuple[int, int]]) -> None:
        if len(bounds) > 1:
            self.framed.counts["texts_in_windows"] += 1
            self.framed.counts["windows"] += len(bounds)

    def questions(self, reader: Reader, items: Sequence[Question]) -> None:
        contexts = list(dict.fromkeys(item.context for item in items))  # several questions share one
        number_of = {context: number for number, context in enumerate(contexts)}
        read = _read(reader, [*contexts, *(item.question for item in items)], self.first_unseen, offsets=True)
        counts = self.framed.counts
        self.framed.unseen = read.unseen
        all_places = [np.array(offsets, dtype=np.int32).reshape(-1, 2) for offsets in read.offsets]
        most = min(QUESTION_TOKENS, (self.room - 1) // 2)
        for place, item in enumerate(items):
            number = number_of[item.context]
            ids, asked = read.inputs[number], read.inputs[len(contexts) + place]
            counts["questions_cut"] += len(asked) > most
            start = [*self.before, *asked[:most], self.sep]
            bounds = windows(len(ids), self.how.limit - len(start) - len(self.after), self.how.stride)
            answer = self._answer(item, read.offsets[number])
            best = best_windows(bounds, np.arange(len(ids)))
            for window, (begin, end) in enumerate(bounds):
                position: tuple[int, int] | None = (0, 0)
                if answer is None:
                    position = None
                elif begin <= answer[0] and answer[1] <= end:
                    shift = len(start) - begin
                    position = answer[0] + shift, answer[1] - 1 + shift
                here = all_places[number][begin:end]
                self.framed.windows.append(Window(len(start), here, best[begin:end] == window, position))
                self.framed.add([*start, *ids[begin:end], *self.after], len(start))
            self._count_windows(bounds)
            self._end_item()

    def _answer(self, item: Question, offsets: Offsets) -> tuple[int, int] | None:
        """First token of the first answer that the context holds, and one past its last."""
        for text, start in item.answers:
            if start != NOT_THERE:
                first, end = pieces_of_words(item.context, offsets, [(start, start + len(text))])[0].tolist()
                if first >= 0:
                    return first, end
        self.framed.counts["questions_without_a_place"] += 1
        return None
