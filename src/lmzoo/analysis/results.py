"""From run folders to results: everything that a report says, as plain values, the same for the same runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from lmzoo import __version__, rng
from lmzoo.analysis import curves, outcomes
from lmzoo.analysis.arms import compared, group, same_batches
from lmzoo.analysis.cells import Arms, Cell
from lmzoo.analysis.comparable import sort
from lmzoo.analysis.matching import match
from lmzoo.analysis.outcomes import Aligned
from lmzoo.analysis.records import Found, Run
from lmzoo.analysis.resampling import CONFIDENCE, DRAWS, resampled
from lmzoo.analysis.statistics import (
    Difference,
    difference,
    holm,
    mean_of_seeds,
    seeds_to_settle,
    verdict,
)

MOST_PAIRED = 8
"""Arms of which every one is held against every other; of more, each against the first."""

PARTS = 1000
"""Of the work, as progress is told."""

Advance = Callable[[int], object]


def results_of(found: Found, seed: int = 0, advance: Advance = lambda count: None) -> dict[str, Any]:
    """Compare runs.

    Args:
        found: what ``records.read_runs`` gave.
        seed: of all draws.
        advance: told, as the work goes on, how many of ``PARTS`` parts of it are done.

    Returns:
        what results.json holds; docs/compare.md lists the keys.

    Raises:
        LmzooError: runs that are the same, yardsticks on different data, a damaged file.
    """
    arms = group(found.runs)
    figures = sort(arms)
    apart, equal = compared(arms)
    more = _shared(advance, DRAWS * max(1, len(figures.cells)))
    cells = [_cell(cell, arms, seed, more) for cell in figures.cells]
    return {
        "lmzoo": __version__,
        "seed": seed,
        "draws": DRAWS,
        "confidence": CONFIDENCE,
        "folder": str(found.together),
        "passed_over": found.passed_over,
        "runs": [_run(run) for run in found.runs],
        "arms": {
            arm: {"runs": [r.name for r in runs], "seeds": [r.seed for r in runs]}
            for arm, runs in arms.items()
        },
        "differs": apart,
        "equal": equal,
        "matching": match(arms).told(),
        "tasks": sorted({name for run in found.runs for name in run.tasks}),
        "search": curves.searched(found.runs),
        "cells": cells,
        "apart": [asdict(each) for each in figures.apart],
        "lacking": [asdict(each) for each in figures.lacking],
        "losses": curves.losses(arms),
        "along": curves.along(arms),
        "lengths": curves.lengths(arms),
        "phenomena": curves.phenomena(arms),
        "layers": curves.layers(arms),
        "wandb": _wandb(found.runs),
    }


def _shared(advance: Advance, total: int) -> Advance:
    """What takes counts up to ``total``, and tells of as many parts of ``PARTS``."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        advance(done * PARTS // total - before * PARTS // total)

    return more


def _run(run: Run) -> dict[str, Any]:
    head = (run.metrics or {}).get("run") or {}
    return {
        "name": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "finished": run.finished,
        "model": run.config["model"]["name"],
        "objective": run.config["objective"]["name"],
        "lr": (run.config.get("optimizer") or {}).get("lr"),
        "version": head.get("version"),
        "git": head.get("git"),
        "content": run.content,
        "ledger": run.ledger,
    }


def _wandb(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Where the runs are to be found on W&B, as their configs say."""
    keys = ("entity", "project", "group")
    loggers = [run.config.get("logger") or {} for run in runs]
    return {
        key: sorted({str(each[key]) for each in loggers if each.get(key) and each.get("name") == "wandb"})
        for key in keys
    }


# ---------------------------------------------------------------------------------- one cell


def _cell(cell: Cell, arms: Arms, seed: int, advance: Advance) -> dict[str, Any]:
    """A cell's means, intervals and comparisons."""
    aligned = _aligned(cell)
    key = rng.key(seed, "compare", cell.section, cell.name)
    names = list(cell.figures)
    figures = {arm: [figure for _, figure in members] for arm, members in cell.figures.items()}
    drawn: dict[str, np.ndarray] = {}
    if isinstance(aligned, Aligned):
        # (draws, runs of all arms), one arm after another
        every = resampled(aligned.runs, aligned.groups, key, DRAWS, advance)
        bounds = np.cumsum([0, *(len(figures[arm]) for arm in names)])
        drawn = {
            arm: every[:, start:end] for arm, start, end in zip(names, bounds[:-1], bounds[1:], strict=True)
        }
    else:
        advance(DRAWS)
    units = aligned.units if isinstance(aligned, Aligned) else 0
    rows = []
    for arm in names:
        mean = mean_of_seeds(figures[arm], drawn.get(arm), units)
        runs = [run for run, _ in cell.figures[arm]]
        rows.append(
            {
                "arm": arm,
                "mean": mean.value,
                "low": mean.low,
                "high": mean.high,
                "method": mean.method,
                "seeds": [run.seed for run in runs],
                "figures": figures[arm],
                "runs": [run.name for run in runs],
                "controls": {name: by_arm[arm] for name, by_arm in cell.controls.items() if arm in by_arm},
            }
        )
    return {
        "section": cell.section,
        "name": cell.name,
        "reading": cell.reading,
        "kind": cell.kind,
        "unit": cell.unit,
        "higher_is_better": cell.higher_is_better,
        "merit": cell.merit,
        "units": units,
        "drawn": aligned.drawn if isinstance(aligned, Aligned) else None,
        "why_not_drawn": None if isinstance(aligned, Aligned) else aligned,
        "matching": match({arm: [run for run, _ in cell.figures[arm]] for arm in names}).told(),
        "rows": rows,
        "comparisons": _comparisons(cell, arms, figures, drawn, units, key),
        "notes": cell.notes,
    }


def _aligned(cell: Cell) -> Aligned | str:
    several = [outcome for members in cell.outcomes.values() for outcome in members]
    if cell.section == "loss":
        return "a loss is known of all rows together only"
    return outcomes.of_task(several) if cell.section == "task" else outcomes.of_yardstick(several)


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(arm, against): the later against the earlier."""
    if len(names) <= MOST_PAIRED:
        return [(other, one) for one, other in combinations(names, 2)]
    return [(other, names[0]) for other in names[1:]]


def _comparisons(
    cell: Cell,
    arms: Arms,
    figures: Mapping[str, Sequence[float]],
    drawn: Mapping[str, np.ndarray],
    units: int,
    key: int,
) -> list[dict[str, Any]]:
    made: list[tuple[str, str, Difference]] = []
    for arm, against in _pairs(list(figures)):
        seeds = [[run.seed for run, _ in cell.figures[name]] for name in (arm, against)]
        paired = seeds[0] == seeds[1] and same_batches(arms[arm][0], arms[against][0])
        both = (drawn[arm], drawn[against]) if drawn else None
        found = difference(
            figures[arm], figures[against], both, units, paired=paired, key=rng.key(key, arm, against)
        )
        made.append((arm, against, found))
    corrected = holm([found.estimate.p for _, _, found in made])
    by_chance = holm([found.permutation_p for _, _, found in made])
    out = []
    for (arm, against, found), p, other_p in zip(made, corrected, by_chance, strict=True):
        said = verdict(found, p, cell.higher_is_better)
        open_still = said == "inconclusive" and cell.merit
        out.append(
            {
                "arm": arm,
                "against": against,
                "difference": found.estimate.value,
                "low": found.estimate.low,
                "high": found.estimate.high,
                "method": found.estimate.method,
                "about": "the arms" if min(found.seeds) > 1 else "these runs alone",
                "paired": found.paired,
                "seeds": list(found.seeds),
                "p": found.estimate.p,
                "p_holm": p,
                "two_level": found.two_level,
                "permutation_p": found.permutation_p,
                "permutation_p_holm": other_p,
                "verdict": said if cell.merit else None,
                "seeds_to_settle": seeds_to_settle(found, len(made)) if open_still else None,
            }
        )
    return out
