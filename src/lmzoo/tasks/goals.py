"""What a task asks of a head: targets, losses, and how numbers become labels, tags and answers again.

A goal speaks of *examples*: the items, or for questions the rows, of which an item may have several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmzoo.tasks.encode import Framed
from lmzoo.tasks.examples import Example, Labelled, Question, Tagged, TaskData
from lmzoo.tasks.tags import repaired

UNKNOWN = -100
"""Target of a label that training never had: nothing is learned from it."""


class Goal(Protocol):
    """What is asked of a head, and how its answers read."""

    outputs: int
    """Numbers that the head gives: an example, a word or a position."""

    def learned(self, part: range) -> np.ndarray:
        """Numbers of the examples of a part of the items that something can be learned from."""
        ...

    def judged(self, part: range) -> np.ndarray:
        """Numbers of all examples of a part."""
        ...

    def loss(self, logits: Tensor, examples: np.ndarray) -> Tensor:
        """Mean nats (or squared error) of some examples."""
        ...

    def told(self, logits: Tensor, examples: np.ndarray) -> list[Any]:
        """What is said of each example."""
        ...

    def predictions(self, part: range, told: Mapping[int, Any]) -> list[Any]:
        """What is said of each item of a part, in order."""
        ...


def goal_of(data: TaskData, items: Sequence[Example], train: range, framed: Framed, max_answer: int) -> Goal:
    """The goal of a task, with the targets of all its items."""
    match data.config.shape:
        case "tagging":
            return TagGoal(data, items)  # type: ignore[arg-type]
        case "spans":
            return SpanGoal(items, framed, max_answer)  # type: ignore[arg-type]
        case _ if data.config.regression:
            return NumberGoal(items, train)  # type: ignore[arg-type]
        case _:
            return LabelGoal(data, items)  # type: ignore[arg-type]


class _OfItems:
    """Examples are the items."""

    def learned(self, part: range) -> np.ndarray:
        return np.arange(part.start, part.stop)

    judged = learned

    def predictions(self, part: range, told: Mapping[int, Any]) -> list[Any]:
        return [told[item] for item in part]


def _nats(logits: Tensor, targets: np.ndarray) -> Tensor:
    """Mean cross-entropy of (N, C) over the targets that are known."""
    there = torch.from_numpy(targets).to(logits.device)
    total = F.cross_entropy(logits.float(), there, ignore_index=UNKNOWN, reduction="sum")
    return total / (there != UNKNOWN).sum().clamp_min(1)


class LabelGoal(_OfItems):
    """One label a text or pair."""

    def __init__(self, data: TaskData, items: Sequence[Labelled]) -> None:
        self.labels = data.labels
        self.outputs = len(data.labels)
        number = {label: place for place, label in enumerate(data.labels)}
        self.targets = np.array([number.get(str(item.label), UNKNOWN) for item in items], dtype=np.int64)

    def learned(self, part: range) -> np.ndarray:
        numbers = np.arange(part.start, part.stop)
        return numbers[self.targets[numbers] != UNKNOWN]

    def loss(self, logits: Tensor, examples: np.ndarray) -> Tensor:
        return _nats(logits, self.targets[examples])

    def told(self, logits: Tensor, examples: np.ndarray) -> list[str]:
        return [self.labels[place] for place in logits.argmax(-1).tolist()]


class NumberGoal(_OfItems):
    """A number a text or pair: squared error, in deviations of the training part's numbers."""

    outputs = 1

    def __init__(self, items: Sequence[Labelled], train: range) -> None:
        values = np.array([float(item.label) for item in items], dtype=np.float64)
        known = values[train.start : train.stop]
        self.mean = float(known.mean())
        self.deviation = float(known.std()) or 1.0
        self.targets = ((values - self.mean) / self.deviation).astype(np.float32)

    def loss(self, logits: Tensor, examples: np.ndarray) -> Tensor:
        there = torch.from_numpy(self.targets[examples]).to(logits.device)
        return F.mse_loss(logits[:, 0].float(), there)

    def told(self, logits: Tensor, examples: np.ndarray) -> list[float]:
        return [self.mean + self.deviation * value for value in logits[:, 0].double().tolist()]


class TagGoal(_OfItems):
    """One tag a word; the head's numbers are of all words of the examples, one after another."""

    def __init__(self, data: TaskData, items: Sequence[Tagged]) -> None:
        self.tags = data.labels
        self.outputs = len(data.labels)
        self.entities = data.config.metric == "entity_f1"
        number = {tag: place for place, tag in enumerate(data.labels)}
        self.targets = [np.array([number.get(tag, UNKNOWN) for tag in item.tags], np.int64) for item in items]

    def loss(self, logits: Tensor, examples: np.ndarray) -> Tensor:
        return _nats(logits, np.concatenate([self.targets[i] for i in examples]))

    def told(self, logits: Tensor, examples: np.ndarray) -> list[list[str]]:
        found = iter(logits.argmax(-1).tolist())
        tags = [[self.tags[next(found)] for _ in self.targets[i]] for i in examples]
        return [repaired(entry) for entry in tags] if self.entities else tags


class SpanGoal:
    """An answer out of a context; the head's numbers are (N, 2), start and end of all positions of rows.

    A row that does not hold the answer is to point at its first position, as in BERT (Devlin et al. 2019,
    section 4.2 and ``run_squad.py``).
    """

    outputs = 2

    def __init__(self, items: Sequence[Question], framed: Framed, max_answer: int) -> None:
        self.items, self.framed, self.max_answer = items, framed, max_answer
        self.item_of = np.repeat(np.arange(len(items)), np.diff(framed.first_row))
        self.lengths = np.array([len(row) for row in framed.rows])

    def judged(self, part: range) -> np.ndarray:
        return np.arange(self.framed.first_row[part.start], self.framed.first_row[part.stop])

    def learned(self, part: range) -> np.ndarray:
        rows = self.judged(part)
        there = [self.framed.windows[row].answer is not None for row in rows]
        return rows[np.array(there, dtype=bool)]

    def _by_row(self, logits: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(B, T) starts and (B, T) ends, -inf where a row has no position."""
        lengths = torch.from_numpy(self.lengths[rows]).to(logits.device)
        inside = torch.arange(int(lengths.max()), device=logits.device) < lengths[:, None]
        out = logits.new_full((*inside.shape, 2), float("-inf"), dtype=torch.float32)
        out[inside] = logits.float()
        return out[..., 0], out[..., 1]

    def loss(self, logits: Tensor, examples: np.ndarray) -> Tensor:
        wanted = torch.tensor([self.framed.windows[row].answer for row in examples], device=logits.device)
        both = self._by_row(logits, examples)
        return sum(F.cross_entropy(part, wanted[:, i]) for i, part in enumerate(both)) / 2  # type: ignore[return-value]

    def told(self, logits: Tensor, examples: np.ndarray) -> list[tuple[float, str]]:
        """Score and text of the best span of each row."""
        starts, ends = (part.cpu() for part in self._by_row(logits, examples))
        may_start = torch.zeros_like(starts, dtype=torch.bool)
        may_end = torch.zeros_like(may_start)
        held = [self.framed.windows[row] for row in examples]
        for number, window in enumerate(held):
            place = slice(window.begin, window.begin + len(window.places))
            may_start[number, place] = torch.from_numpy(window.best)
            may_end[number, place] = True
        starts = starts.masked_fill(~may_start, float("-inf"))
        ends = ends.masked_fill(~may_end, float("-inf"))
        scores, firsts, lasts = best_spans(starts, ends, self.max_answer)
        found = []
        for row, window, score, first, last in zip(
            examples.tolist(), held, scores.tolist(), firsts.tolist(), lasts.tolist(), strict=True
        ):
            text = ""
            if score > float("-inf"):
                start, end = window.places[first - window.begin][0], window.places[last - window.begin][1]
                text = self.items[int(self.item_of[row])].context[int(start) : int(end)].strip()
            found.append((score, text))
        return found

    def predictions(self, part: range, told: Mapping[int, Any]) -> list[str]:
        bounds = self.framed.first_row
        return [
            max((told[row] for row in range(bounds[i], bounds[i + 1])), key=lambda e: e[0])[1] for i in part
        ]


def best_spans(starts: Tensor, ends: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pair of positions, start not after end, with the largest sum, in each row.

    Args:
        starts: (B, T), -inf where no span may start.
        ends: (B, T), -inf where none may end.
        longest: positions of a span at most.

    Returns:
        (B,) sums, -inf where no span is possible, (B,) first and (B,) last positions.
    """
    length = starts.shape[1]
    best = starts.new_full((len(starts),), float("-inf"))
    first, last = (torch.zeros(len(starts), dtype=torch.int64, device=starts.device) for _ in range(2))
    for distance in range(min(longest, length)):
        value, place = (starts[:, : length - distance] + ends[:, distance:]).max(1)
        better = value > best
        best = torch.where(better, value, best)
        first = torch.where(better, place, first)
        last = torch.where(better, place + distance, last)
    return best, first, last
