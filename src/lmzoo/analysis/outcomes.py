"""Items of yardsticks and tasks as numbers that a bootstrap can draw again; where that cannot be, the reason.

A figure that cannot be made again from its items, to a thousandth, is not drawn again: then something else
than the items' sums has gone into it.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmzoo.analysis.records import Outcome
from lmzoo.analysis.resampling import Sampled
from lmzoo.errors import LmzooError
from lmzoo.tasks.spans import character_f1

TOLERANCE = 1e-3
"""Of the recorded figure."""


@dataclass(frozen=True)
class Aligned:
    """What several runs did on the same items."""

    runs: list[Sampled]
    groups: np.ndarray | None
    """(n,) sorted numbers of the groups that items are drawn within."""
    drawn: str
    """What is drawn, in words: `sentences`, `pairs within their paradigms`."""

    @property
    def units(self) -> int:
        return len(self.runs[0].values)


# ---------------------------------------------------------------------------------- yardsticks


def of_yardstick(outcomes: Sequence[Outcome]) -> Aligned | str:
    """The items of one yardstick in several runs, which have the same ``items_hash``; or why not.

    Raises:
        LmzooError: a file of items is damaged.
    """
    if missing := next((one for one in outcomes if not one.items_path.is_file()), None):
        return f"{missing.items_path.name} of a run is not there"
    match outcomes[0].yardstick:
        case "bits_per_byte" | "pseudo_likelihood" | "length_extrapolation":
            found = _blocks(outcomes)
        case "corpus_pairs":
            found = _sentences(outcomes)
        case "minimal_pairs":
            found = _right(outcomes, "paradigm", "pairs within their paradigms")
        case "word_senses":
            found = _right(outcomes, "word", "occurrences of a word")
        case "words_in_context":
            found = _right(outcomes, None, "pairs")
        case "contextuality":
            found = _means(outcomes, "adjusted_top_layer", "words")
        case _:
            return "how its figure is made of its items is not known here"
    if isinstance(found, str):
        return found
    return _made_again(found, [outcome.record["figure"] for outcome in outcomes])


def _made_again(found: Aligned, figures: Sequence[float]) -> Aligned | str:
    for sampled, figure in zip(found.runs, figures, strict=True):
        if not math.isclose(sampled.whole(), figure, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            return f"the items give {sampled.whole():.4g} and not the figure, {figure:.4g}"
    return found


def _mean(sums: np.ndarray, scale: float) -> np.ndarray:
    return sums[..., 0] * scale


def _scaled(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: _mean(sums, scale)


def _ratio(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda sums: scale * sums[..., 0] / np.maximum(sums[..., 1], 1e-300)


def _right(outcomes: Sequence[Outcome], group: str | None, drawn: str) -> Aligned:
    """Right or wrong; the figure is the mean over the groups, in percent."""
    first = outcomes[0].items()
    order, groups, weights = np.arange(len(first)), None, np.ones(len(first))
    scale = 100 / len(first)
    if group is not None:
        _, codes = np.unique([str(item[group]) for item in first], return_inverse=True)
        order = np.argsort(codes, kind="stable")
        groups = codes[order]
        sizes = np.bincount(groups)
        if len(set(sizes.tolist())) > 1:
            scale, weights = 100.0, 1 / (sizes[groups] * len(sizes))
    runs = []
    for outcome in outcomes:
        flags = np.array(outcome.flags("correct"), np.float64)
        if len(flags) != len(first):
            raise LmzooError(f"{outcome.items_path} has another number of items than those of the other runs")
        runs.append(Sampled((flags[order] * weights)[:, None], _scaled(scale)))
    return Aligned(runs, groups, drawn)


def _sentences(outcomes: Sequence[Outcome]) -> Aligned | str:
    """Pairs made of one sentence are drawn together; their ids are GROUP/SENTENCE."""
    first = outcomes[0].items()
    _, codes = np.unique([str(item["id"]).partition("/")[2] for item in first], return_inverse=True)
    sizes = np.bincount(codes)
    if len(set(sizes.tolist())) > 1:
        return "its sentences have not the same number of pairs"
    scale = 100 / len(first)
    flags = [np.array(outcome.flags("correct"), np.float64) for outcome in outcomes]
    if any(len(each) != len(first) for each in flags):
        raise LmzooError(f"{outcomes[0].path.name} has not the same number of items in all runs")
    return Aligned(
        [Sampled(np.bincount(codes, each)[:, None], _scaled(scale)) for each in flags], None, "sentences"
    )


def _blocks(outcomes: Sequence[Outcome]) -> Aligned | str:
    """Nats over bytes, block by block; only blocks of the same bytes stand beside each other."""
    runs, lengths = [], None
    for outcome in outcomes:
        items = outcome.items()
        values = np.array([[item["nats"], item["bytes"]] for item in items], np.float64)
        if lengths is not None and not np.array_equal(lengths, values[:, 1]):
            return "the text is cut into other blocks (another tokenizer or length)"
        lengths = values[:, 1]
        runs.append(Sampled(values, _ratio(1 / math.log(2))))
    return Aligned(runs, None, "blocks of running text")


def _means(outcomes: Sequence[Outcome], key: str, drawn: str) -> Aligned | str:
    runs = []
    for outcome in outcomes:
        values = [item.get(key) for item in outcome.items()]
        if any(value is None for value in values) or (runs and len(values) != len(runs[0].values)):
            return "not every item has a value in every run"
        runs.append(Sampled(np.array(values, np.float64)[:, None], _scaled(1 / len(values))))
    return Aligned(runs, None, drawn)


# ---------------------------------------------------------------------------------- tasks


def of_task(outcomes: Sequence[Outcome]) -> Aligned | str:
    """The predictions of one task in several runs, which have the same ``items_hash``; or why not.

    A run's figure is the mean over the seeds of its fine-tuning, which are its own and no one else's.

    Raises:
        LmzooError: a file of predictions is damaged.
    """
    if missing := next((one for one in outcomes if not one.items_path.is_file()), None):
        return f"{missing.items_path.name} of a run is not there"
    runs: list[Sampled] = []
    for outcome in outcomes:
        items, metric, score = outcome.items(), outcome.record.get("metric"), outcome.record["score"]
        for made in _ways(str(metric), items):
            if math.isclose(made.whole(), score, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                runs.append(made)
                break
        else:
            return f"{metric} is not made again from the predictions"
        if len(runs[-1].values) != len(runs[0].values):
            raise LmzooError(f"{outcome.items_path} has another number of items than those of the other runs")
    return Aligned(runs, None, "items of the task")


def _ways(metric: str, items: Sequence[dict[str, Any]]) -> Iterator[Sampled]:
    """How a task's score may be made of its predictions; the one that gives the recorded score is right."""
    if not items:
        return
    gold = [item["gold"] for item in items]
    by_seed = list(zip(*(item["predicted"] for item in items), strict=True))  # (seeds, items)
    if metric == "accuracy" and isinstance(gold[0], list):
        words = [[_same(g, p) / len(by_seed) for g, p in zip(gold, each, strict=True)] for each in by_seed]
        yield Sampled(np.stack([np.sum(words, axis=0), [len(g) for g in gold]], axis=1), _ratio(100))
    elif metric == "accuracy":
        right = np.array([[g == p for g, p in zip(gold, each, strict=True)] for each in by_seed], np.float64)
        yield Sampled(right.mean(0)[:, None], _scaled(100 / len(gold)))
    elif metric in ("matthews", "f1") and not isinstance(gold[0], list):
        for positive in sorted({str(g) for g in gold}):
            quadrants = [
                [_quadrant(g, p, positive) for g, p in zip(gold, each, strict=True)] for each in by_seed
            ]
            yield _counted(quadrants, _matthews if metric == "matthews" else _f1)
    elif metric == "entity_f1":
        yield _counted([[_entities(g, p) for g, p in zip(gold, each, strict=True)] for each in by_seed], _f1)
    elif metric == "f1":
        for overlap in (_word_f1, character_f1):
            shares = [[max(overlap(p, g) for g in answers) for answers, p in zip(gold, each, strict=True)]
                      for each in by_seed]  # fmt: skip
            yield Sampled(np.mean(shares, axis=0)[:, None], _scaled(100 / len(gold)))


def _same(gold: Sequence[str], predicted: Sequence[str]) -> int:
    return sum(g == p for g, p in zip(gold, predicted, strict=True))


_Quadrant = tuple[int, int, int, int]
"""True positives, false positives, false negatives, true negatives."""


def _quadrant(gold: Any, predicted: Any, positive: str) -> _Quadrant:
    is_one, said = str(gold) == positive, str(predicted) == positive
    return (is_one and said, not is_one and said, is_one and not said, not is_one and not said)


def _counted(by_seed: Sequence[Sequence[_Quadrant]], of: Callable[[np.ndarray], np.ndarray]) -> Sampled:
    """A score of counts, seed by seed; the figure is the mean over the seeds."""
    values = np.concatenate([np.array(each, np.float64) for each in by_seed], axis=1)

    def figure(sums: np.ndarray) -> np.ndarray:
        return of(sums.reshape(*sums.shape[:-1], len(by_seed), 4)).mean(-1)

    return Sampled(values, figure)


def _f1(counts: np.ndarray) -> np.ndarray:
    hit, wrong, missed, _ = np.moveaxis(counts, -1, 0)
    return 200 * hit / np.maximum(2 * hit + wrong + missed, 1)


def _matthews(counts: np.ndarray) -> np.ndarray:
    hit, wrong, missed, rest = np.moveaxis(counts, -1, 0)
    product = (hit + wrong) * (hit + missed) * (rest + wrong) * (rest + missed)
    # the numerator is 0 too where a factor of the denominator is
    return 100 * (hit * rest - wrong * missed) / np.sqrt(np.maximum(product, 1))


def _entities(gold: Sequence[str], predicted: Sequence[str]) -> _Quadrant:
    true, said = _spans(gold), _spans(predicted)
    hit = len(true & said)
    return hit, len(said) - hit, len(true) - hit, 0


def _spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Entities in IOB2, strictly: an I-X that nothing begins is none."""
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{tags[start][2:]}":
            found.add((start, place, tags[start][2:]))
            start = None
        if tag.startswith("B-"):
            start = place
    return found


def _words(text: str) -> list[str]:
    bare = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _word_f1(predicted: str, gold: str) -> float:
    """F1 of the words that both have (Rajpurkar et al. 2016, SQuAD's evaluation)."""
    said, true = _words(predicted), _words(gold)
    if not said or not true:
        return float(said == true)
    common = sum((Counter(said) & Counter(true)).values())
    return 2 * common / (len(said) + len(true))
