"""Student's t distribution, for which nothing that lmzoo installs has a function."""

from __future__ import annotations

import math
from functools import lru_cache


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction.

    DLMF 8.17.22, evaluated by Lentz's method (Press et al. 2007, "Numerical Recipes", section 6.4).
    """
    if not 0 <= x <= 1:
        raise ValueError(f"x = {x} is outside [0, 1]")
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other tail converges sooner
        return 1 - incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for factor in (even, odd):
            d = 1 + factor * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + factor / c
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(logarithm) * value / a


def student_p(t: float, df: float) -> float:
    """Probability that |T| is at least |t|, of Student's t with ``df`` degrees of freedom."""
    if math.isinf(df):
        return math.erfc(abs(t) / math.sqrt(2))
    if abs(t) < 1:  # by the other tail: 1 - x would keep few figures of a small t
        return 1 - incomplete_beta(t * t / (df + t * t), 0.5, df / 2)
    return incomplete_beta(df / (df + t * t), df / 2, 0.5)


def _density(t: float, df: float) -> float:
    if math.isinf(df):
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    return math.exp(constant - (df + 1) / 2 * math.log1p(t * t / df))


@lru_cache(4096)
def student_quantile(probability: float, df: float) -> float:
    """The t below which Student's t with ``df`` degrees of freedom lies with this probability.

    Newton's steps, and halving where one would leave the bracket.
    """
    if not 0 < probability < 1 or not df > 0:
        raise ValueError(f"a probability of {probability} with {df} degrees of freedom")
    if probability < 0.5:
        return -student_quantile(1 - probability, df)
    tail = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while student_p(high, df) > tail:
        low, high = high, high * 2
    t = (low + high) / 2
    for _ in range(200):
        excess = student_p(t, df) - tail
        low, high = (t, high) if excess > 0 else (low, t)
        slope = 2 * _density(t, df)
        further = t + excess / slope if slope else low
        if not low < further < high:
            further = (low + high) / 2
        if abs(further - t) <= 1e-13 * max(1.0, t):
            return further
        t = further
    return t
