"""Figures that may be ranked against each other, and how outcomes of runs are put together for them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from lmzoo.analysis.records import Outcome, Run
from lmzoo.errors import LmzooError

Arms = Mapping[str, Sequence[Run]]


@dataclass
class Cell:
    """Figures that may be ranked against each other."""

    section: str
    """`yardstick`, `task` or `loss`."""
    name: str
    kind: str
    unit: str
    higher_is_better: bool
    figures: dict[str, list[tuple[Run, float]]]
    """By arm, one a run, by seed."""
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    """The same runs' files; empty of a loss."""
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    """What stands beside: by its name and arm, the mean over the runs."""
    notes: list[str] = field(default_factory=list)
    merit: bool = True
    """Whether one figure is better than another at all."""
    reading: str | None = None
    """The one that was asked for of models that have several; runs log no figure of it."""


@dataclass(frozen=True)
class Apart:
    """Figures of one name that may not be ranked against each other."""

    name: str
    groups: dict[str, list[str]]
    """Arms by what their figures are."""
    reason: str


@dataclass(frozen=True)
class Lacking:
    """A figure that an arm has not."""

    name: str
    arm: str
    reason: str


@dataclass
class Sorted:
    """All figures of some runs, by what may be compared."""

    cells: list[Cell] = field(default_factory=list)
    apart: list[Apart] = field(default_factory=list)
    lacking: list[Lacking] = field(default_factory=list)


def refuse_other_items(name: str, several: Iterable[tuple[Run, Outcome]]) -> None:
    """Refuse outcomes on different items.

    Raises:
        LmzooError: naming the two runs.
    """
    first: tuple[Run, Outcome] | None = None
    for run, outcome in several:
        first = first or (run, outcome)
        one, other = first[1].record["items_hash"], outcome.record["items_hash"]
        if one != other:
            raise LmzooError(
                f"{name} was taken on different data in {first[0].folder} (items {one[:8]}) and in "
                f"{run.folder} (items {other[:8]}); measure both on the same, or leave one out"
            )


def taken_by_name(
    arms: Arms, of: Callable[[Run], Mapping[str, Outcome]]
) -> dict[str, list[tuple[Run, Outcome]]]:
    """Outcomes by name, in the order of the arms and their seeds."""
    found: dict[str, list[tuple[Run, Outcome]]] = {}
    for runs in arms.values():
        for run in runs:
            for name, outcome in of(run).items():
                found.setdefault(name, []).append((run, outcome))
    return dict(sorted(found.items()))


def parted(
    name: str,
    known: Sequence[tuple[Run, Outcome]],
    key: Callable[[Run, Outcome], tuple[Hashable, str]],
    reason: str,
    found: Sorted,
) -> list[tuple[str, list[tuple[Run, Outcome]]]]:
    """The outcomes by what they may be compared within; more than one group is told of."""
    groups: dict[Hashable, list[tuple[Run, Outcome]]] = {}
    labels: dict[Hashable, str] = {}
    for run, outcome in known:
        same, label = key(run, outcome)
        groups.setdefault(same, []).append((run, outcome))
        labels.setdefault(same, label)
    if len(groups) > 1:
        told = {labels[same]: arms_of(each) for same, each in groups.items()}
        found.apart.append(Apart(name, told, reason))
    return [(labels[same], each) for same, each in groups.items()]


def arms_of(several: Iterable[tuple[Run, Any]]) -> list[str]:
    """The arms of some runs, each once, in order."""
    return list(dict.fromkeys(run.arm for run, _ in several))


def cell_of(
    section: str,
    name: str,
    kind: str,
    unit: str,
    higher: bool,
    members: Sequence[tuple[Run, Outcome]],
    key: str,
) -> Cell:
    """A cell of outcomes whose figure is ``record[key]``."""
    cell = Cell(section, name, kind, unit, higher, {})
    for run, outcome in members:
        cell.figures.setdefault(run.arm, []).append((run, float(outcome.record[key])))
        cell.outcomes.setdefault(run.arm, []).append(outcome)
    return cell


def controls_of(
    members: Sequence[tuple[Run, Outcome]], beside: Callable[[dict[str, Any]], Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """By control and arm, the means of what ``beside`` finds in the records."""
    found: dict[str, dict[str, list[float]]] = {}
    for run, outcome in members:
        for control, figure in beside(outcome.record).items():
            found.setdefault(control, {}).setdefault(run.arm, []).append(figure)
    return {control: {arm: fmean(each) for arm, each in by_arm.items()} for control, by_arm in found.items()}


def unlike(members: Sequence[tuple[Run, Outcome]], key: str, told: str) -> list[str]:
    """A note where a record's entry is not the same for all."""
    by_value: dict[str, list[tuple[Run, Outcome]]] = {}
    for run, outcome in members:
        by_value.setdefault(str(outcome.record.get(key)), []).append((run, outcome))
    if len(by_value) < 2:
        return []
    return [
        f"{told} " + "; ".join(f"{value}: {', '.join(arms_of(each))}" for value, each in by_value.items())
    ]


def figures_in_words(several: Mapping[str, Any]) -> str:
    """`ngram5 61.2, lstm 69.8`."""

    def told(value: Any) -> str:
        if isinstance(value, list):
            return "–".join(map(told, value))
        return f"{value:.4g}" if isinstance(value, int | float) else str(value)

    return ", ".join(f"{name.replace('_', ' ')} {told(value)}" for name, value in several.items())
