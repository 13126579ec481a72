"""Each arm's learning rate, from a search of equal size on the loss of its own validation text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.progress import say
from lmzoo.settings import TrainConfig
from lmzoo.sweeps.cells import Search
from lmzoo.sweeps.jobs import picked
from lmzoo.sweeps.record import Job, write_json

FILE, FOLDER = "search.json", "search"
"""In the sweep's folder: what was found, and the trials, a sweep of their own."""
FEWEST = 4
"""Values of a search that a reader will take for one."""
_WITHOUT = ["evaluate_at_end=null", "evaluate_along=null", "checkpoint.log_spaced=0"]
"""A trial is measured by its loss alone."""


def trials(
    search: Search, arms: Mapping[str, Sequence[str]], composes: Callable[[list[str]], TrainConfig]
) -> list[Job]:
    """The jobs of a search, arm by arm.

    Args:
        search: what is tried.
        arms: the overrides of each, whose budget is cut to the search's share.
        composes: ``lmzoo.config.compose``.
    """
    jobs = []
    for arm, overrides in arms.items():
        shorter = scaled(list(overrides), search.share, composes)
        for value in search.values:
            said = [*without(shorter, [f"{search.key}={value:g}", *_WITHOUT]), *_WITHOUT]
            number = len(jobs)
            jobs.append(Job(number, [*said, f"{search.key}={value:g}"], cells=[arm], folder=str(number)))
    return jobs


def scaled(overrides: list[str], share: float, composes: Callable[[list[str]], TrainConfig]) -> list[str]:
    """The same run on a share of its budget, whatever that counts. Raises LmzooError."""
    budget = vars(composes(overrides).budget)
    ((name, whole),) = [(name, value) for name, value in budget.items() if value is not None]
    part = max(round(whole * share), 1) if name == "steps" else whole * share
    kept = [entry for entry in overrides if not entry.startswith("budget.")]
    return [*kept, f"budget.{name}={part:g}" if name != "steps" else f"budget.steps={part}"]


def without(overrides: Sequence[str], said: Sequence[str]) -> list[str]:
    """``overrides`` less those whose key is said anew."""
    keys = {entry.partition("=")[0] for entry in said}
    return [entry for entry in overrides if entry.partition("=")[0] not in keys]


def found(folder: Path, search: Search, jobs: Sequence[Job]) -> dict[str, float]:
    """What each arm's trials say, also written to ``search.json``; the rate of the smallest loss by arm.

    Args:
        folder: the sweep's.
        search: what was tried.
        jobs: the trials, all ended.

    Raises:
        LmzooError: an arm has no trial that came to an end.
    """
    arms: dict[str, dict[str, Any]] = {}
    for place, job in enumerate(jobs):
        value = search.values[place % len(search.values)]
        run = folder / FOLDER / job.folder
        arm = arms.setdefault(job.cells[0], {"metric": search.metric, "share": search.share, "trials": []})
        arm["trials"].append(
            {"lr": value, "loss": _loss(run, search.metric), "run": f"{FOLDER}/{job.folder}"}
        )
    chosen: dict[str, float] = {}
    for label, arm in arms.items():
        known = [trial for trial in arm["trials"] if trial["loss"] is not None]
        if not known:
            raise LmzooError(
                f"{label}: none of its {len(arm['trials'])} rates came to an end; see {folder / FOLDER}"
            )
        best = min(known, key=lambda trial: trial["loss"])
        arm["chosen"] = chosen[label] = best["lr"]
        arm["at_edge"] = len(arm["trials"]) > 1 and best["lr"] in (min(search.values), max(search.values))
    write_json(folder / FILE, {"arms": arms})
    for label, arm in arms.items():
        shown = "  ".join(f"{t['lr']:g}: {_shown(t['loss'])}" for t in arm["trials"])
        edge = "; the best lies at the edge of what was tried" if arm["at_edge"] else ""
        say(f"search  {label}: {search.key}={arm['chosen']:g} ({shown}{edge})")
    return chosen


def _loss(run: Path, metric: str) -> float | None:
    try:
        value = picked(json.loads((run / "metrics.json").read_text(encoding="utf-8")), metric)
    except (OSError, ValueError):
        return None
    return value if value is not None and math.isfinite(value) else None


def _shown(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.3f}"
