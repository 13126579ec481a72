"""The items of a yardstick drawn again and again, the same draws for every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lmzoo import rng

DRAWS = 10_000
"""Of a bootstrap, and of a permutation test that is not done in full."""
CONFIDENCE = 0.95
_COUNTED = 2**16
"""Items drawn and counted at once: half a megabyte, which stays in a core's cache."""
_SUMMED = 2**22
"""Counts that are multiplied with the items' values at once: 16 or 32 megabytes."""


@dataclass(frozen=True)
class Sampled:
    """What one run did with the items of a yardstick, in the order that all runs share."""

    values: np.ndarray
    """(n, k) float64: what each item adds to the k sums of which the figure is made."""
    figure: Callable[[np.ndarray], np.ndarray]
    """(…, k) sums → (…) figures."""

    def whole(self) -> float:
        """The figure of all items, each once."""
        return float(self.figure(self.values.sum(0)))


def resampled(
    runs: Sequence[Sampled],
    groups: np.ndarray | None,
    key: int,
    draws: int = DRAWS,
    advance: Callable[[int], object] = lambda count: None,
) -> np.ndarray:
    """Figures of runs on items drawn with replacement, the same draws for every run.

    Args:
        runs: on the same n items in the same order.
        groups: (n,) numbers of the groups, sorted, within which items are drawn, where the figure is a mean
            over groups that are fixed; None draws among all.
        key: from ``lmzoo.rng``; a draw depends on it, its number and the item's place alone.
        draws: how often.
        advance: told how many draws are done since it was told last.

    Returns:
        (draws, runs) float64. Beside it no more memory is held than ``_SUMMED`` says, however many items.
    """
    columns = np.concatenate([run.values for run in runs], axis=1)
    length = len(columns)
    # sums of whole numbers of this size are exact in half the room
    small = length * float(np.abs(columns).max()) < 2**24 and bool((columns == np.rint(columns)).all())
    columns = np.ascontiguousarray(columns, dtype=np.float32 if small else np.float64)
    counted = min(draws, max(1, _COUNTED // length))
    sizes, starts = _bounds(groups, length)
    sizes = np.tile(sizes, counted)
    starts = (np.arange(counted)[:, None] * length + starts).ravel()
    summed = min(draws, counted * max(1, _SUMMED // (length * counted)))
    counts = np.empty((summed, length), columns.dtype)
    out = np.empty((draws, len(runs)))
    for begin in range(0, draws, summed):
        several = min(summed, draws - begin)
        for row in range(0, several, counted):
            rows = min(counted, several - row)
            chosen = rng.fast_integers(key, (begin + row) * length, sizes[: rows * length])
            chosen += starts[: rows * length]
            counts[row : row + rows] = np.bincount(chosen, minlength=rows * length).reshape(rows, length)
        sums = (counts[:several] @ columns).astype(np.float64, copy=False)
        place = 0
        for number, run in enumerate(runs):
            width = run.values.shape[1]
            out[begin : begin + several, number] = run.figure(sums[:, place : place + width])
            place += width
        advance(several)
    return out


def _bounds(groups: np.ndarray | None, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) how many are in the group of each item, uint64, and where it begins."""
    if groups is None:
        return np.full(length, length, np.uint64), np.zeros(length, np.int64)
    if (np.diff(groups) < 0).any():
        raise ValueError("groups are not sorted")
    _, first, inverse, count = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    return count[inverse].astype(np.uint64), first[inverse].astype(np.int64)


def percentiles(draws: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The middle part of a bootstrap (Efron and Tibshirani 1993, "An introduction to the bootstrap", 13)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p of no difference: the least level at which the percentile interval has 0 at its border.

    Never 0: the sample itself is counted as a draw (Davison and Hinkley 1997, "Bootstrap methods and their
    application", section 4.2.5).
    """
    least = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + least) / (1 + len(differences)))
