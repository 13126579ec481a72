"""An experiment of several cells, from one command to its table: rates searched, runs trained, put to tasks.

What is there already is not done again: ``sweep.resume=DIR`` takes the same way as the first command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.folders import remember, remove_empty
from lmzoo.progress import say
from lmzoo.sweeps import search as searches
from lmzoo.sweeps import table as tables
from lmzoo.sweeps.cells import Cell, Experiment
from lmzoo.sweeps.command import Asked, Outcome, changes, conclude, run_jobs, said_anew
from lmzoo.sweeps.jobs import Jobs
from lmzoo.sweeps.plan import kind_of
from lmzoo.sweeps.progress import duration
from lmzoo.sweeps.record import DONE, Job, Record, left_of, read_record, read_states, write_json
from lmzoo.sweeps.record import FILE as SWEEP
from lmzoo.sweeps.said import Plan, plan_of

FILE, REPORT = "experiment.json", "report"
"""In the sweep's folder."""


# ---------------------------------------------------------------------------------- the way


def begin(experiment: Experiment, asked: Asked, make: Callable[[], Jobs]) -> None:
    """Run an experiment. Raises LmzooError: it cannot be, or a job of it failed."""
    plan = plan_of(experiment, asked)
    folder = _sweep_folder(asked)
    if (folder / FILE).exists() or (folder / SWEEP).exists():
        raise LmzooError(
            f"{folder} holds a sweep already: give another hydra.sweep.dir=, or go on with it by "
            f"sweep.resume={folder}"
        )
    _foretell(plan)
    remember(folder)
    write_json(folder / FILE, plan.kept())
    try:
        run(folder, plan, make)
    except BaseException:
        if {path.name for path in folder.iterdir()} == {FILE}:  # nothing came of it
            (folder / FILE).unlink()
            remove_empty(folder)
        raise


def go_on(folder: Path, asked: Asked, make: Callable[[], Jobs]) -> None:
    """Go on with an experiment that was begun. Raises LmzooError."""
    changed = changes(asked)
    try:
        plan = Plan.of(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise LmzooError(f"{folder / FILE} cannot be read ({error}); start the experiment again") from error
    plan.hydra = said_anew(plan.hydra, asked.hydra)
    if Path(plan.working_folder).is_dir():
        os.chdir(plan.working_folder)
    run(folder, plan, make, changed)


def run(folder: Path, plan: Plan, make: Callable[[], Jobs], changed: Sequence[str] = ()) -> None:
    """Whatever is not yet done of an experiment: search, runs, table, report.

    Args:
        folder: its own.
        plan: all that was said of it.
        make: what Hydra calls.
        changed: other hardware and loggers.
    """

    def stage(place: Path, jobs: list[Job]) -> Outcome | None:
        return _stage(place, jobs, plan, make, folder, changed)

    experiment = plan.experiment
    chosen: dict[str, float] = {}
    if experiment.search is not None:
        jobs = searches.trials(experiment.search, _arms(plan), plan.compose)
        if len(experiment.search.values) < searches.FEWEST:
            say(f"search  {len(experiment.search.values)} rates are few: the best may lie elsewhere")
        stage(folder / searches.FOLDER, jobs)
        chosen = searches.found(folder, experiment.search, jobs)
    jobs = _jobs(plan, chosen)
    outcome = stage(folder, jobs)
    states = read_states(folder)
    runs = {c.label: [folder / j.folder for j in jobs if c.label in j.cells] for c in experiment.cells}
    text = tables.write(folder, tables.collect(experiment, runs, plan.typed))
    print(f"\n{text}\n\ntable  {folder / tables.TEXT}", flush=True)
    if experiment.compare:
        whole = [folder / j.folder for j in jobs if j.number in states and states[j.number].state == DONE]
        _report(whole, folder / REPORT)
    if outcome is not None:
        conclude(outcome)


def _report(runs: Sequence[Path], to: Path) -> None:
    if not runs:
        return
    import_module("lmzoo.compare").compare(list(runs), to)
    print(f"report {to / 'report.html'}", flush=True)


def _stage(
    folder: Path,
    jobs: list[Job],
    plan: Plan,
    make: Callable[[], Jobs],
    named: Path,
    changed: Sequence[str],
) -> Outcome | None:
    """Run the jobs that are missing or unfinished; None where none is.

    Args:
        folder: of the search, or of the experiment.
        jobs: all there are.
        plan: what was said of them.
        make: what Hydra calls.
        named: the experiment's folder.
        changed: other hardware and loggers.

    Raises:
        LmzooError: all of them failed.
    """
    if (folder / SWEEP).exists():
        for old, job in zip(read_record(folder).jobs, jobs, strict=True):
            if old.overrides != job.overrides:
                raise LmzooError(
                    f"{folder / SWEEP} has other jobs than the experiment; start it again elsewhere"
                )
    else:
        Record(list(plan.hydra), plan.flags, jobs, working_folder=plan.working_folder).write(folder)
    left = left_of(folder, jobs)
    if not left:
        return None
    outcome = run_jobs(folder, left, plan.flags, plan.hydra, make(), changed=changed, named=named)
    if not any(state.state == DONE for state in read_states(folder).values()):
        conclude(outcome)
    return outcome


def _arms(plan: Plan) -> dict[str, list[str]]:
    """What is searched for: cells that choose the same are one arm."""
    arms: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for cell in plan.experiment.cells:
        said = [*plan.overrides(cell), f"seed={plan.experiment.seeds[0]}"]
        arms.setdefault(tuple(cell.choose), (cell.label, said))
    return dict(arms.values())


def _jobs(plan: Plan, chosen: dict[str, float]) -> list[Job]:
    """The runs of all cells; what chooses the same is trained once a seed."""
    experiment = plan.experiment
    key = "" if experiment.search is None else experiment.search.key
    by_choice: dict[tuple[str, ...], list[Cell]] = {}
    for cell in experiment.cells:
        by_choice.setdefault(tuple(cell.choose), []).append(cell)
    jobs = []
    for cells in by_choice.values():
        rate = [f"{key}={chosen[cells[0].label]:g}"] if chosen else []
        yardsticks = replace(
            cells[0], evaluate=list(dict.fromkeys(y for cell in cells for y in cell.evaluate))
        )
        overrides = plan.overrides(yardsticks)
        tasks: list[dict[str, Any]] = []
        for cell in cells:
            tasks += [given for given in tables.tasks_of(experiment, cell) if given not in tasks]
        for seed in experiment.seeds:
            number = len(jobs)
            said = [*overrides, f"seed={seed}", *rate]
            kind = kind_of(plan.compose(said)) if seed == experiment.seeds[0] else jobs[-1].kind
            jobs.append(Job(number, said, kind, [cell.label for cell in cells], tasks, str(number)))
    return jobs


def _foretell(plan: Plan) -> None:
    """Say how long it will take, from a few steps of every arm."""
    from lmzoo.sweeps.forecast import Pace, pace_of

    experiment = plan.experiment
    say(f"{experiment.name}: {experiment.title}")
    total, paces = 0.0, []
    arms = _arms(plan)
    for label, overrides in arms.items():
        config = plan.compose(overrides)
        pace: Pace = pace_of(config)
        paces.append(f"{label} {pace.tokens_per_second / 1000:.3g} k tokens/s")
        total += len(experiment.seeds) * pace.seconds_of(config)
        if experiment.search is not None:
            shorter = searches.scaled(overrides, experiment.search.share, plan.compose)
            shorter = plan.compose([*searches.without(shorter, ["evaluate_at_end="]), "evaluate_at_end=null"])
            total += len(experiment.search.values) * pace.seconds_of(shorter)
    runs = f"{len(arms) * len(experiment.seeds)} runs"
    if experiment.search is not None:
        share = f"{experiment.search.share:g} of the budget"
        runs = f"{len(arms) * len(experiment.search.values)} trials at {share} and {runs}"
    beside = ", fine-tuning not counted" if experiment.finetune else ""
    say(
        f"{experiment.name}: {runs}, one after another about {duration(total)} here{beside} ({', '.join(paces)})"
    )


def _sweep_folder(asked: Asked) -> Path:
    """The folder that Hydra would give to the sweep."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from lmzoo.config import config_folder, register_schemas

    register_schemas()
    said = [entry for entry in asked.hydra if entry.startswith("hydra.sweep.dir=")]
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="lmzoo"):
        return Path(hydra_compose("train", said, return_hydra_config=True).hydra.sweep.dir).absolute()
