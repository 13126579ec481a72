"""From figures of seeds and draws of items to intervals, tests and verdicts; docs/compare.md says why so.

Two things are drawn at random in a comparison: which items a yardstick asks, and with which seeds a model was
trained. All runs are asked the same items, so these are drawn once for all of them (the crossed bootstrap:
Owen 2007, "The pigeonhole bootstrap").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmzoo import rng
from lmzoo.analysis.resampling import CONFIDENCE, DRAWS, bootstrap_p, percentiles
from lmzoo.analysis.student import student_p, student_quantile

LEVEL = 0.05
"""Of a corrected p, below which there is a verdict."""
POWER = 0.8
"""With which so many seeds as ``seeds_to_settle`` says would find a difference as large as the one seen."""
LEAST_SEEDS = 6
"""For a permutation test: of n pairs of seeds no p can be below 2 / 2**n, which is 0.25 for three."""
_LEAST_P = 1e-15
"""1 - p is 1 below it."""
MOST_SEEDS = 1_000
"""Beyond which it is not told how many seeds would settle it."""


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, how far it is known, and by what."""

    value: float
    low: float | None
    high: float | None
    method: str
    """`t over seeds and items`, `t over seeds`, `bootstrap over items` or `none`."""
    p: float | None = None
    """Two-sided, of no difference."""


@dataclass(frozen=True)
class Part:
    """A part of the variance of a mean."""

    variance: float
    df: float


def t_interval(value: float, parts: Sequence[Part], method: str) -> Estimate:
    """value ± √Σ t² v, of a variance that is the sum of parts known with different degrees of freedom.

    Each part's variance v is taken with the t of its own degrees of freedom (Banerjee 1960, "Approximate
    confidence interval for linear functions of means of k populations when the population variances are not
    equal"). That holds what it promises however the parts share the variance; one t with Satterthwaite's
    degrees of freedom, which is more usual, falls to 0.92 for three seeds and to 0.88 for two.
    """
    parts = [part for part in parts if part.variance > 0]
    if not parts:  # no spread at all tells nothing of a difference
        return Estimate(value, value, value, method, 1.0 if value == 0 else None)
    half = _reach(parts, (1 + CONFIDENCE) / 2)
    return Estimate(value, value - half, value + half, method, _p(abs(value), parts))


def _reach(parts: Sequence[Part], *probabilities: float) -> float:
    """√Σ v (t(p) + t(q) + …)², each t with the part's degrees of freedom."""
    reaches = ((part.variance, sum(student_quantile(p, part.df) for p in probabilities)) for part in parts)
    return math.sqrt(sum(variance * t * t for variance, t in reaches))


def _p(value: float, parts: Sequence[Part]) -> float:
    """Two-sided p: the level at which the interval has 0 at its border."""
    first = min(parts, key=lambda part: part.df)
    rest = [part for part in parts if part is not first]
    t = value / math.sqrt(first.variance)
    if not rest or value == 0:
        return student_p(t, first.df)
    low, high = 0.0, t  # of the first part's t: at its end the others have none
    below, above = -value, math.inf

    def over(t: float) -> float:
        """How far the interval reaches beyond 0 with this t of the first part."""
        p = student_p(t, first.df)
        if p <= _LEAST_P:
            return math.inf
        return math.sqrt(first.variance * t * t + _reach(rest, 1 - p / 2) ** 2) - value

    for _ in range(60):
        straight = (low * above - high * below) / (above - below) if math.isfinite(above) else math.nan
        t = straight if low < straight < high else (low + high) / 2
        found = over(t)
        if abs(found) <= 1e-9 * value or high - low <= 1e-12 * high:
            break
        if found > 0:  # the end that stays counts half, or it would stay for long (the Illinois rule)
            high, above, below = t, found, below / 2
        else:
            low, below, above = t, found, above / 2
    return max(student_p(t, first.df), _LEAST_P)


def spread(figures: Sequence[float]) -> float:
    """Variance of one seed's figure, n - 1 below."""
    return float(np.var(np.asarray(figures, np.float64), ddof=1))


def mean_of_seeds(figures: Sequence[float], drawn: np.ndarray | None, units: int) -> Estimate:
    """The mean over the seeds of one arm.

    Args:
        figures: one a seed.
        drawn: (draws, seeds) on items drawn again; None where the figure is not made of items.
        units: how many items there are.
    """
    value = float(np.mean(figures))
    means = None if drawn is None else drawn.mean(1)
    if len(figures) == 1:
        if means is None:
            return Estimate(value, None, None, "none")
        return Estimate(value, *percentiles(means), "bootstrap over items")
    of_seeds = _of_seeds([spread(figures)], [len(figures)])
    return t_interval(value, [of_seeds, *_items(means, units)], _method(means))


def _items(drawn: np.ndarray | None, units: int) -> list[Part]:
    return [] if drawn is None else [Part(float(drawn.var()), max(units - 1, 1))]


def _method(drawn: np.ndarray | None) -> str:
    return "t over seeds" if drawn is None else "t over seeds and items"


@dataclass(frozen=True)
class Difference:
    """One arm against another."""

    estimate: Estimate
    paired: bool
    """Whether seed was taken from seed."""
    two_level: tuple[float, float] | None
    """The interval of the two-level bootstrap, from two seeds a side on."""
    permutation_p: float | None
    """From ``LEAST_SEEDS`` seeds a side on."""
    seeds: tuple[int, int]
    spreads: tuple[float, ...]
    """Of one seed: of the difference where paired, else of either side."""
    items: Part | None
    """What the items add to the variance of the difference."""


def difference(
    one: Sequence[float],
    other: Sequence[float],
    drawn: tuple[np.ndarray, np.ndarray] | None,
    units: int,
    *,
    paired: bool,
    key: int,
) -> Difference:
    """``one`` minus ``other``.

    With two seeds or more on both sides it is about the arms: Student's t with the variance over the seeds
    and over the items. With one seed on a side it is about these very runs: the paired bootstrap over the
    items (Koehn 2004, "Statistical significance tests for machine translation evaluation").

    Args:
        one: figures, one a seed.
        other: likewise, in the same order of seeds where ``paired``.
        drawn: (draws, seeds) of either side on the same draws of the items; None where there are none.
        units: how many items.
        paired: the same seeds, and so the same batches, on both sides.
        key: from ``lmzoo.rng``, for the draws of seeds.
    """
    value = float(np.mean(one) - np.mean(other))
    over_items = None if drawn is None else drawn[0].mean(1) - drawn[1].mean(1)
    found = _items(over_items, units)
    items = found[0] if found else None
    seeds = len(one), len(other)
    if min(seeds) < 2:
        if over_items is None:
            return Difference(Estimate(value, None, None, "none"), False, None, None, seeds, (), items)
        told = Estimate(value, *percentiles(over_items), "bootstrap over items", bootstrap_p(over_items))
        return Difference(told, False, None, None, seeds, (), items)
    spreads = (spread(np.subtract(one, other).tolist()),) if paired else (spread(one), spread(other))
    told = t_interval(value, [_of_seeds(spreads, seeds), *found], _method(over_items))
    sides = drawn or (np.asarray(one, np.float64)[None, :], np.asarray(other, np.float64)[None, :])
    both = percentiles(two_level(*sides, paired=paired, key=key))
    enough = min(seeds) >= LEAST_SEEDS
    by_chance = permutation_p(one, other, paired=paired, key=key) if enough else None
    return Difference(told, paired, both, by_chance, seeds, spreads, items)


def _of_seeds(spreads: Sequence[float], seeds: Sequence[int]) -> Part:
    """What seeds add to the variance of a mean or difference; two sides have Welch's degrees of freedom."""
    variances = [variance / count for variance, count in zip(spreads, seeds, strict=False)]
    total = sum(variances)
    if total <= 0:
        return Part(0.0, 1.0)
    return Part(total, total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, seeds, strict=False)))


def two_level(one: np.ndarray, other: np.ndarray, *, paired: bool, key: int) -> np.ndarray:
    """(draws,) differences: seeds drawn with replacement, then items.

    With a handful of seeds its interval is too narrow, as any bootstrap's of so few: of three seeds it has
    2/3 of the variance. So it stands beside the interval by Student's t, and gives no verdict.

    Args:
        one: (draws, seeds) figures on items drawn again, or (1, seeds) where there are none.
        other: likewise.
        paired: the seeds are drawn for both sides at once.
        key: from ``lmzoo.rng``.
    """
    draws = len(one) if len(one) > 1 else DRAWS

    def drawn(side: np.ndarray, name: str) -> np.ndarray:
        count = side.shape[1]
        numbers = np.arange(draws * count, dtype=np.int64)
        chosen = rng.integers(rng.key(key, name), count, numbers).reshape(draws, count)
        return np.take_along_axis(np.broadcast_to(side, (draws, count)), chosen, axis=1).mean(1)

    return drawn(one, "seeds") - drawn(other, "seeds" if paired else "other seeds")


def permutation_p(one: Sequence[float], other: Sequence[float], *, paired: bool, key: int) -> float:
    """Two-sided p of no difference: signs of the pairs flipped, or seeds dealt anew to the two sides.

    In full where there are at most ``DRAWS`` ways, else of so many random ones, the one that was seen among
    them (Phipson and Smyth 2010, "Permutation p-values should never be zero").
    """
    if paired:
        pairs = np.subtract(one, other)
        count = len(pairs)
        in_full = 2**count <= DRAWS
        if in_full:
            signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        else:
            numbers = np.arange(DRAWS * count, dtype=np.int64).reshape(DRAWS, count)
            signs = 1 - 2 * rng.integers(rng.key(key, "signs"), 2, numbers)
        means = signs @ pairs / count
        seen = abs(float(pairs.mean()))
    else:
        every = np.concatenate([one, other])
        count, side = len(every), len(one)
        in_full = math.comb(count, side) <= DRAWS
        if in_full:
            chosen = np.array(list(itertools.combinations(range(count), side)))
        else:
            numbers = np.arange(DRAWS * count, dtype=np.int64).reshape(DRAWS, count)
            chosen = rng.bits(rng.key(key, "sides"), numbers).argsort(1)[:, :side]
        first = every[chosen].sum(1)
        means = first / side - (every.sum() - first) / (count - side)
        seen = abs(float(np.mean(one) - np.mean(other)))
    extreme = int((np.abs(means) >= seen * (1 - 1e-12)).sum())
    return extreme / len(means) if in_full else (1 + extreme) / (1 + len(means))


# ------------------------------------------------------------------------------- verdicts


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected so that the chance of one wrong verdict in the table is bounded (Holm 1979)."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    out: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        out[place] = largest
    return out


def verdict(found: Difference, corrected_p: float | None, higher_is_better: bool) -> str:
    """`better`, `worse` or `inconclusive`, of the first against the second."""
    if corrected_p is None or corrected_p >= LEVEL or found.estimate.value == 0:
        return "inconclusive"
    return "better" if (found.estimate.value > 0) == higher_is_better else "worse"


def seeds_to_settle(found: Difference, comparisons: int) -> int | str | None:
    """How many seeds a side would settle it, were the true difference the one that was seen.

    The least n ≥ 2 with |difference| ≥ √Σ v (t(1 - α/2) + t(power))², the sum over the seeds' part and the
    items', each with its own degrees of freedom, α = 0.05 / comparisons. The seeds' part is the spread of one
    seed over n; the items' does not shrink with n. (The usual formula for a sample's size, as in Julious
    2004, "Sample sizes for clinical trials with normal data", with a second part.)

    Returns:
        the number; ``items`` where no number of seeds would do, as the items are too few; ``more than
        1,000``; None where one seed a side does not tell how far seeds lie apart.
    """
    if not found.spreads:
        return None
    effect, level = abs(found.estimate.value), LEVEL / max(comparisons, 1)

    levels = 1 - level / 2, POWER
    items = [found.items] if found.items is not None and found.items.variance > 0 else []

    def settled(count: int) -> bool:
        of_seeds = _of_seeds(found.spreads, [count] * len(found.spreads))
        return effect >= _reach([of_seeds, *items], *levels)

    if items and effect < _reach(items, *levels):
        return "items"
    if not settled(MOST_SEEDS):
        return f"more than {MOST_SEEDS:,}"
    low, high = 1, MOST_SEEDS  # settled(high), and not settled(low) or low is 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high
