"""Intervals, tests and verdicts: against brute force, textbook values, SciPy, and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lmzoo import rng
from lmzoo.analysis import resampling, statistics
from lmzoo.analysis.resampling import Sampled, bootstrap_p, percentiles, resampled
from lmzoo.analysis.statistics import (
    Difference,
    Estimate,
    Part,
    difference,
    holm,
    mean_of_seeds,
    permutation_p,
    seeds_to_settle,
    spread,
    two_level,
    verdict,
)
from lmzoo.analysis.student import incomplete_beta, student_p, student_quantile

KEY = rng.key(0, "test")


def mean(values, scale: float = 1.0) -> Sampled:
    values = np.asarray(values, np.float64)[:, None]
    return Sampled(values, lambda sums: scale * sums[..., 0] / len(values))


def ratio(above, below) -> Sampled:
    return Sampled(
        np.stack([above, below], axis=1).astype(np.float64), lambda sums: sums[..., 0] / sums[..., 1]
    )


# ---------------------------------------------------------------------------------- Student's t


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (math.inf, 1.960)]
)
def test_quantiles_are_those_of_the_printed_tables(df, quantile):
    assert student_quantile(0.975, df) == pytest.approx(quantile, abs=5e-4)
    assert student_quantile(0.025, df) == -student_quantile(0.975, df)
    assert student_p(student_quantile(0.975, df), df) == pytest.approx(0.05, rel=1e-9)


def test_the_incomplete_beta_function_is_scipys():
    special = pytest.importorskip("scipy.special")
    for a, b in itertools.product((0.5, 1, 2.3, 40, 33_499.5), (0.5, 1, 3.7, 60)):
        for x in (0.0, 1e-6, 0.02, 0.3, 0.5, 0.9, 0.9999, 1.0):
            assert incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-14)


def test_students_distribution_is_scipys():
    of = pytest.importorskip("scipy.stats").t
    for df in (1, 1.4, 2, 3.7, 12, 250.5, 66_999):
        for t in (0.0, 1e-3, 0.7, 2.5, 8.0, 40.0):
            assert student_p(t, df) == pytest.approx(2 * of.sf(t, df), rel=1e-7, abs=1e-300)
        for probability in (0.5001, 0.8, 0.975, 0.9995, 0.99999):
            assert student_quantile(probability, df) == pytest.approx(of.ppf(probability, df), rel=1e-7)


@pytest.mark.parametrize("given", [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_a_quantile_that_there_is_not_is_refused(given):
    with pytest.raises(ValueError, match="probability"):
        student_quantile(*given)


# ---------------------------------------------------------------------------------- draws


def test_quick_draws_depend_on_key_and_number_alone():
    sizes = np.full(1000, 7, np.uint64)
    whole = rng.fast_integers(KEY, 0, sizes)
    parts = [
        rng.fast_integers(KEY, start, sizes[: end - start]) for start, end in ((0, 3), (3, 500), (500, 1000))
    ]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, rng.fast_integers(KEY + 1, 0, sizes))


def test_quick_draws_are_even_and_within_their_bounds():
    drawn = rng.fast_integers(KEY, 0, np.full(140_000, 7, np.uint64))
    counts = np.bincount(drawn, minlength=7)
    assert len(counts) == 7
    assert ((counts - 20_000) ** 2 / 20_000).sum() < 22.5  # χ² with 6 degrees of freedom, p = 0.001
    several = np.array([1, 2, 3, 2**31 - 1] * 500, np.uint64)
    drawn = rng.fast_integers(KEY, 11, several)
    assert (drawn >= 0).all()
    assert (drawn < several.astype(np.int64)).all()
    assert drawn[3::4].max() > 2**30


def test_quick_draws_are_the_hash_of_the_house():
    """SplitMix64 of key and number, halved: what ``fast_bits`` gives."""
    hashes = rng.fast_bits(KEY, 0, 50).numpy().view(np.uint32).astype(np.uint64)
    assert np.array_equal(rng.fast_integers(KEY, 0, np.full(100, 1000, np.uint64)), (hashes * 1000) >> 32)


# ---------------------------------------------------------------------------------- the bootstrap


@pytest.mark.parametrize("groups", [None, [0, 0, 0, 1, 1, 2, 2, 2, 2]])
def test_a_bootstrap_is_what_a_loop_over_draws_and_items_gives(groups, monkeypatch):
    monkeypatch.setattr(resampling, "_COUNTED", 20)  # two rows of nine at once
    monkeypatch.setattr(resampling, "_SUMMED", 40)
    above, below = np.arange(1.0, 10), np.array([2.0, 1, 1, 3, 1, 2, 2, 1, 4])
    codes = None if groups is None else np.array(groups)
    out = resampled([ratio(above, below), mean(above)], codes, KEY, draws=7)
    starts = [0] * 9 if groups is None else [groups.index(g) for g in groups]
    sizes = [9] * 9 if groups is None else [groups.count(g) for g in groups]
    for draw in range(7):
        chosen = rng.fast_integers(KEY, draw * 9, np.array(sizes, np.uint64)) + starts
        if groups is not None:
            assert [groups[c] for c in chosen] == groups
        assert out[draw, 0] == pytest.approx(above[chosen].sum() / below[chosen].sum(), rel=1e-12)
        assert out[draw, 1] == pytest.approx(above[chosen].mean(), rel=1e-12)


def test_memory_bounds_and_half_the_room_change_nothing(monkeypatch):
    draw = np.random.default_rng(1)
    right = (draw.random((50, 3)) < 0.6).astype(float)
    runs = [mean(column) for column in right.T]
    whole = resampled(runs, None, KEY, draws=101)
    halves = resampled([mean(column / 2, scale=2) for column in right.T], None, KEY, draws=101)  # in float64
    np.testing.assert_allclose(whole, halves, rtol=1e-12)
    monkeypatch.setattr(resampling, "_COUNTED", 1)
    monkeypatch.setattr(resampling, "_SUMMED", 1)
    assert np.array_equal(whole, resampled(runs, None, KEY, draws=101))


def test_the_spread_of_a_bootstrapped_mean_is_that_of_theory():
    values = np.random.default_rng(2).normal(size=80)
    drawn = resampled([mean(values)], None, KEY)
    assert drawn.var() == pytest.approx(values.var() / 80, rel=0.05)
    groups = np.repeat([0, 1], 40)
    apart = values + 100 * groups  # within groups this spread does not count
    within = resampled([mean(apart)], groups, KEY)
    theory = (apart[:40].var() + apart[40:].var()) / 40 / 4
    assert within.var() == pytest.approx(theory, rel=0.05)


def test_groups_out_of_order_are_no_groups():
    with pytest.raises(ValueError, match="sorted"):
        resampled([mean([1, 2, 3])], np.array([0, 1, 0]), KEY, draws=2)


def test_all_draws_are_told_of():
    told = []
    resampled([mean(np.arange(30))], None, KEY, draws=50, advance=told.append)
    assert sum(told) == 50


def test_a_paired_bootstrap_knows_what_runs_have_in_common():
    """Two runs that are right on nearly the same items differ by little, however hard the items are."""
    draw = np.random.default_rng(3)
    one = (draw.random(400) < 0.5).astype(float)
    other = one.copy()
    other[:12] = 1 - other[:12]
    shift = other.mean() - one.mean()
    drawn = resampled([mean(other), mean(one)], None, KEY)
    found = difference([other.mean()], [one.mean()], (drawn[:, :1], drawn[:, 1:]), 400, paired=True, key=KEY)
    low, high = found.estimate.low, found.estimate.high
    assert low is not None
    assert high is not None
    assert low <= shift <= high
    assert high - low < 0.04  # unpaired it would be 0.14
    assert found.estimate.method == "bootstrap over items"
    assert found.two_level is None
    assert found.permutation_p is None
    assert not found.spreads


def test_the_bootstraps_p_is_near_mcnemars():
    stats = pytest.importorskip("scipy.stats")
    one = np.zeros(300)
    other = np.zeros(300)
    other[:25], one[25:35] = 1, 1  # 25 against 10
    drawn = resampled([mean(other), mean(one)], None, KEY)
    exact = stats.binomtest(10, 35).pvalue
    assert bootstrap_p(drawn[:, 0] - drawn[:, 1]) == pytest.approx(exact, abs=0.012)


def test_percentiles_and_p_of_known_draws():
    draws = np.arange(-10, 990) / 1.0
    assert percentiles(draws) == pytest.approx((14.975, 964.025))
    assert bootstrap_p(draws) == pytest.approx(2 * 12 / 1001)  # -10 … 0, and the sample
    assert bootstrap_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.zeros(10)) == 1


# ---------------------------------------------------------------------------------- seeds


def test_over_seeds_alone_it_is_the_t_test_of_the_textbooks():
    """Student's sleep data (1908), paired and by Welch; t, p and interval as R prints them."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    paired = difference(first, second, None, 0, paired=True, key=KEY).estimate
    assert paired.p == pytest.approx(0.002833, rel=1e-3)
    assert (paired.low, paired.high) == (
        pytest.approx(-2.4598858, rel=1e-6),
        pytest.approx(-0.7001142, rel=1e-6),
    )
    welch = difference(first, second, None, 0, paired=False, key=KEY).estimate
    assert welch.p == pytest.approx(0.07939, rel=1e-3)
    assert (welch.low, welch.high) == (
        pytest.approx(-3.3654832, rel=1e-6),
        pytest.approx(0.2054832, rel=1e-6),
    )
    assert welch.method == "t over seeds"


def test_items_widen_an_interval_over_seeds():
    draw = np.random.default_rng(4)
    drawn = 50 + draw.normal(size=(2000, 1)) + draw.normal(scale=0.1, size=(2000, 3))
    alone = mean_of_seeds([50.0, 50.3, 49.9], None, 0)
    both = mean_of_seeds([50.0, 50.3, 49.9], drawn, 500)
    variance, items = spread([50.0, 50.3, 49.9]) / 3, drawn.mean(1).var()
    half = math.sqrt(student_quantile(0.975, 2) ** 2 * variance + student_quantile(0.975, 499) ** 2 * items)
    assert both.high == pytest.approx(both.value + half, rel=1e-12)
    assert both.high > alone.high
    assert (alone.method, both.method) == ("t over seeds", "t over seeds and items")


@pytest.mark.parametrize("value", [0.01, 0.5, 2.0, 9.0, 60.0])
def test_p_is_the_level_at_which_the_interval_ends_at_0(value):
    parts = [Part(0.2, 2), Part(0.3, 400)]
    p = statistics.t_interval(value, parts, "").p
    t, other = (student_quantile(1 - p / 2, df) for df in (2, 400))
    assert math.sqrt(0.2 * t * t + 0.3 * other * other) == pytest.approx(value, rel=1e-5)
    alone = statistics.t_interval(value, [Part(0.2, 2), Part(0.0, 400)], "")
    assert alone.p == pytest.approx(student_p(value / math.sqrt(0.2), 2))


def test_one_seed_has_the_interval_of_its_items_or_none():
    drawn = np.arange(1001.0)[:, None]
    found = mean_of_seeds([500.0], drawn, 20)
    assert (found.low, found.high) == pytest.approx((25.0, 975.0))
    assert found.method == "bootstrap over items"
    assert mean_of_seeds([500.0], None, 0) == Estimate(500.0, None, None, "none")
    assert difference([1.0], [2.0], None, 0, paired=False, key=KEY).estimate.p is None


def test_figures_that_do_not_spread_at_all_prove_nothing():
    found = difference([3.0, 3.0], [1.0, 1.0], None, 0, paired=True, key=KEY)
    assert found.estimate.p is None
    assert verdict(found, None, True) == "inconclusive"
    assert difference([3.0, 3.0], [3.0, 3.0], None, 0, paired=True, key=KEY).estimate.p == 1


def test_two_levels_have_the_spread_of_theory():
    figures = np.array([1.0, 2.0, 4.0, 9.0])
    of_seeds = two_level(figures[None, :], np.zeros((1, 4)), paired=True, key=KEY)
    assert of_seeds.var() == pytest.approx(figures.var() / 4, rel=0.05)
    items = np.random.default_rng(5).normal(size=(10_000, 1))
    crossed = two_level(figures + items, np.zeros((10_000, 4)), paired=True, key=KEY)
    assert crossed.var() == pytest.approx(figures.var() / 4 + 1, rel=0.05)
    # the same seeds drawn on both sides cancel, others do not
    assert two_level(figures[None, :], figures[None, :], paired=True, key=KEY).var() == 0
    apart = two_level(figures[None, :], figures[None, :], paired=False, key=KEY)
    assert apart.var() == pytest.approx(figures.var() / 2, rel=0.05)


# ---------------------------------------------------------------------------------- permutations


def test_signs_are_flipped_in_full():
    one, other = [5.0, 3.0, 4.0, 6.0, 2.0, 7.0], [4.0, 3.5, 2.0, 5.0, 2.5, 4.0]
    pairs = np.subtract(one, other)
    means = [abs(np.mean(pairs * signs)) for signs in itertools.product((1, -1), repeat=6)]
    exact = np.mean([value >= abs(pairs.mean()) - 1e-12 for value in means])
    assert permutation_p(one, other, paired=True, key=KEY) == exact
    assert permutation_p([1, 2, 3, 4, 5, 6], [0] * 6, paired=True, key=KEY) == 2 / 2**6


def test_three_pairs_cannot_give_less_than_a_quarter():
    assert permutation_p([9, 8, 7], [0, 0, 0], paired=True, key=KEY) == 0.25


def test_sides_are_dealt_anew_in_full():
    stats = pytest.importorskip("scipy.stats")
    one, other = np.array([5.1, 3.0, 4.2, 6.6, 2.9, 7.0]), np.array([4.0, 3.5, 2.0, 5.0, 2.5, 4.1])
    exact = stats.permutation_test(
        (one, other),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        n_resamples=np.inf,
        vectorized=True,
    ).pvalue
    assert permutation_p(one, other, paired=False, key=KEY) == pytest.approx(exact)


@pytest.mark.parametrize("paired", [True, False])
def test_of_many_ways_a_part_is_drawn_and_p_is_never_0(paired):
    draw = np.random.default_rng(6)
    one, other = draw.normal(size=20) + 5, draw.normal(size=20)
    assert permutation_p(one, other, paired=paired, key=KEY) == 1 / 10_001
    same = permutation_p(other, draw.normal(size=20), paired=paired, key=KEY)
    assert 0.02 < same < 1


def test_a_permutation_test_is_done_from_six_seeds_on():
    six, five = np.arange(6.0), np.arange(5.0)
    assert difference(six, six + 1, None, 0, paired=True, key=KEY).permutation_p is not None
    assert difference(five, five + 1, None, 0, paired=True, key=KEY).permutation_p is None
    assert difference(six, five, None, 0, paired=False, key=KEY).permutation_p is None


# ---------------------------------------------------------------------------------- verdicts


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("value", "p", "higher", "said"),
    [
        (1.0, 0.01, True, "better"),
        (-1.0, 0.01, True, "worse"),
        (-1.0, 0.01, False, "better"),
        (1.0, 0.05, True, "inconclusive"),
        (1.0, None, True, "inconclusive"),
    ],
)
def test_the_verdict_is_a_sign_and_a_p(value, p, higher, said):
    found = Difference(Estimate(value, None, None, "t over seeds", p), True, None, None, (3, 3), (1.0,), None)
    assert verdict(found, p, higher) == said


def told(value: float, spreads: tuple[float, ...], items: Part | None = None) -> Difference:
    return Difference(Estimate(value, None, None, "", None), True, None, None, (3, 3), spreads, items)


def test_how_many_seeds_would_settle_it():
    """A paired t-test finds a difference of one standard deviation with power 0.8 from 10 pairs on."""
    assert seeds_to_settle(told(1.0, (1.0,)), 1) == 10
    assert seeds_to_settle(told(-1.0, (1.0,)), 1) == 10
    assert seeds_to_settle(told(0.5, (1.0,)), 1) == 34
    assert seeds_to_settle(told(1.0, (1.0,)), 3) > 10  # a stricter level where three are compared
    assert seeds_to_settle(told(1e-6, (1.0,)), 1) == "more than 1,000"
    assert seeds_to_settle(told(1.0, ()), 1) is None


def test_too_few_items_are_not_made_good_by_seeds():
    assert seeds_to_settle(told(1.0, (1.0,), Part(1.0, 500)), 1) == "items"
    more = seeds_to_settle(told(1.0, (1.0,), Part(0.03, 500)), 1)
    assert isinstance(more, int)
    assert more > 10


def test_so_many_seeds_do_settle_it_four_times_out_of_five():
    draw = np.random.default_rng(7)
    count = seeds_to_settle(told(1.0, (1.0,)), 1)
    assert isinstance(count, int)
    found = [
        difference(draw.normal(1, 1, count), np.zeros(count), None, 0, paired=True, key=KEY).estimate.p < 0.05
        for _ in range(400)
    ]
    assert 0.73 < np.mean(found) < 0.88


# ---------------------------------------------------------------------------------- by simulation


def simulated(draw, seeds: int, items: int, effect: float, spread: float) -> Difference:
    """Two arms with shared difficulties of items, items on which they differ, and seeds that differ."""
    hard = draw.normal(size=items)
    apart = effect + draw.normal(scale=0.5, size=items)
    sides = []
    for shift in (0, apart):
        ability = draw.normal(scale=spread, size=(seeds, 1))
        sides.append(hard + shift + ability + draw.normal(scale=0.5, size=(seeds, items)))
    runs = [mean(run) for side in sides for run in side]
    drawn = resampled(runs, None, rng.key(int(draw.integers(2**31)), "s"), draws=300)
    figures = [side.mean(1) for side in sides]
    both = drawn[:, seeds:], drawn[:, :seeds]
    return difference(figures[1], figures[0], both, items, paired=True, key=KEY)


@pytest.mark.parametrize("spread", [0.02, 0.15])
def test_intervals_hold_what_they_promise(spread):
    """Of 95 % intervals about 95 % hold the true difference, be it items or seeds that differ the more;
    those of the two-level bootstrap do not where it is three seeds."""
    draw = np.random.default_rng(8)
    held, boot = [], []
    for _ in range(300):
        found = simulated(draw, 3, 150, 0.2, spread)
        held.append(found.estimate.low <= 0.2 <= found.estimate.high)
        boot.append(found.two_level[0] <= 0.2 <= found.two_level[1])
    assert 0.93 <= np.mean(held) <= 0.995
    if spread > 0.1:
        assert np.mean(boot) < 0.86


def test_no_difference_is_seldom_called_one():
    draw = np.random.default_rng(9)
    wrong = [simulated(draw, 3, 100, 0.0, 0.1).estimate.p < 0.05 for _ in range(300)]
    assert np.mean(wrong) < 0.085
