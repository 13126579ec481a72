"""Figures, intervals and verdicts in words, the same in tables and beside points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmzoo.summary import ABSENT, PART_NAMES

SIGNS = {"better": "▲\u00a0better", "worse": "▼\u00a0worse", "inconclusive": "○\u00a0inconclusive"}
"""Verdicts, told apart without a colour; in one line."""


def digits(unit: str) -> int:
    """After the point: two for percent, four for anything else."""
    return 2 if unit.startswith("%") or "100" in unit else 4


def number(value: float | None, unit: str, *, signed: bool = False) -> str:
    """A figure in its unit's digits."""
    if value is None:
        return ABSENT
    return f"{value:{'+' if signed else ''}.{digits(unit)}f}".replace("-", "−")


def in_full(part: str) -> str:
    """A part of an objective in words and by its name: `next token (clm)`."""
    told = PART_NAMES.get(part, part)
    return part if told == part else f"{told} ({part})"


def many(count: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def interval(low: float | None, high: float | None, unit: str, *, signed: bool = False) -> str:
    """`[1.20, 1.31]`."""
    if low is None or high is None:
        return ABSENT
    return f"[{number(low, unit, signed=signed)}, {number(high, unit, signed=signed)}]"


def probability(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def settle(comparison: Mapping[str, Any]) -> str:
    """How many seeds would settle it, in words."""
    told = comparison["seeds_to_settle"]
    if comparison["verdict"] != "inconclusive":
        return ABSENT
    if told is None:
        return "not known of one seed"
    return "more items, not seeds" if told == "items" else str(told)
