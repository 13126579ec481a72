"""An experiment of several cells as the command line changes it, and what of it can be measured here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from lmzoo.adoption import with_adopted
from lmzoo.arguments import read_value
from lmzoo.config import compose, composed
from lmzoo.errors import LmzooError
from lmzoo.progress import say
from lmzoo.settings import TrainConfig
from lmzoo.sweeps import search as searches
from lmzoo.sweeps import table as tables
from lmzoo.sweeps.cells import Cell, Column, Experiment, Search
from lmzoo.sweeps.command import Asked, kept_flags
from lmzoo.tasks.settings import Settings
from lmzoo.tasks.settings import check as check_settings
from lmzoo.yardsticks.registry import data_root, missing_file, named

TASKS = "finetune."
"""Keys that are said of every fine-tuning of an experiment."""


@dataclass
class Plan:
    """An experiment with all that was said on the command line, as it is kept for going on."""

    experiment: Experiment
    flags: list[str]
    hydra: list[str]
    said: list[str] = field(default_factory=list)
    """Of every run; it wins over the experiment's file."""
    working_folder: str = field(default_factory=os.getcwd)
    typed: list[str] = field(default_factory=list)
    """All that was said beside the experiment's name, for the foot of its table."""

    def kept(self) -> dict[str, Any]:
        """As it stands in the sweep's folder."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Plan:
        """What ``kept`` gave. Raises KeyError or TypeError where something else stands there."""
        said = dict(values.pop("experiment"))
        said["cells"] = [Cell(**cell) for cell in said["cells"]]
        said["columns"] = [Column(**column) for column in said["columns"]]
        said["search"] = None if said["search"] is None else Search(**said["search"])
        return cls(Experiment(**said), **values)

    def compose(self, overrides: Sequence[str]) -> TrainConfig:
        """A run's config, with the user's own choices. Raises LmzooError."""
        asked = Asked(self.flags, [], self.hydra, {})
        return compose([*asked.search_path, *overrides])

    def overrides(self, cell: Cell) -> list[str]:
        """Of a cell's runs, seed and searched rate left out."""
        budgets = any(entry.startswith("budget.") for entry in self.said)
        base = [e for e in self.experiment.base if not (budgets and e.startswith("budget."))]
        yardsticks = [*self.experiment.evaluate, *cell.evaluate]
        measured = [f"evaluate_at_end=[{','.join(yardsticks)}]"] if yardsticks else []
        own = searches.without([*base, *measured, *cell.choose], self.said)
        # a cell wins over the base
        own = [
            e
            for i, e in enumerate(own)
            if e.partition("=")[0] not in {o.partition("=")[0] for o in own[i + 1 :]}
        ]
        return [*own, *self.said]


def plan_of(experiment: Experiment, asked: Asked) -> Plan:
    """The experiment as the command line changes it.

    Raises:
        LmzooError: something is said that would undo it, or a cell that cannot be.
    """
    if not asked.sweeps_by_hydra:
        raise LmzooError(f"experiment={experiment.name} makes its own jobs; leave hydra/sweeper= out")
    chosen = {entry.partition("=")[0] for cell in experiment.cells for entry in cell.choose}
    said = []
    experiment = _finetuned_as(experiment, [e for e in asked.overrides if e.startswith(TASKS)])
    others = [e for e in asked.overrides if not e.startswith(("experiment=", TASKS))]
    for entry in with_adopted(others, composed):
        key, _, value = entry.partition("=")
        if key == "seed":
            experiment = replace(experiment, seeds=_numbers(key, value, int))
            continue
        if key in chosen:
            raise LmzooError(
                f"{entry}: {key} is what the cells of experiment={experiment.name} differ in; leave it out"
            )
        if "," in value and not value.startswith(("[", "'", '"', "{")):
            raise LmzooError(
                f"{entry}: experiment={experiment.name} has cells of its own; give one value of {key}"
            )
        if experiment.search is not None and key == experiment.search.key:
            raise LmzooError(
                f"{entry}: experiment={experiment.name} searches it for each arm; give sweep.rates=[…], or its one "
                f"value as sweep.rates=[{value}]"
            )
        said.append(entry)
    if "rates" in asked.own:
        if experiment.search is None:
            raise LmzooError(f"sweep.rates=: experiment={experiment.name} searches nothing; leave it out")
        values = _numbers("sweep.rates", asked.own["rates"].strip("[]"), float)
        experiment = replace(experiment, search=replace(experiment.search, values=values))
    typed = [e for e in asked.overrides if not e.startswith("experiment=")]
    typed += [f"sweep.{key}={value}" for key, value in asked.own.items()]
    plan = Plan(_measurable(experiment), kept_flags(asked.flags), asked.hydra, said, typed=typed)
    for cell in plan.experiment.cells:
        for given in tables.tasks_of(plan.experiment, cell):
            check_settings(tables.settings_of(given))
        try:
            plan.compose(plan.overrides(cell))
        except LmzooError as error:
            raise LmzooError(f"experiment={experiment.name}, {cell.label!r}: {error}") from error
    return plan


def _finetuned_as(experiment: Experiment, said: Sequence[str]) -> Experiment:
    """With what the command line says of every fine-tuning. Raises LmzooError."""
    hints = get_type_hints(Settings) | {"task.root": str}
    cells = {key for cell in experiment.cells for key in cell.finetune}
    given: dict[str, Any] = {}
    for entry in said:
        whole, _, value = entry.partition("=")
        key = whole.removeprefix(TASKS)
        if not experiment.finetune:
            raise LmzooError(f"{entry}: experiment={experiment.name} fine-tunes nothing; leave it out")
        if key not in hints:
            near = get_close_matches(key, hints, n=1)
            hint = f"did you mean {TASKS}{near[0]}?" if near else "`lmzoo finetune --help` lists the keys"
            raise LmzooError(f"{whole}: there is no such key; {hint}")
        if key in cells:
            raise LmzooError(
                f"{entry}: {whole} is what the cells of experiment={experiment.name} differ in; leave it out"
            )
        given[key] = read_value(whole, value, hints[key])
    return replace(experiment, finetune=[entry | given for entry in experiment.finetune])


def _numbers(key: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise LmzooError(f"{key}={text}: give numbers with commas between them") from None


def _measurable(experiment: Experiment) -> Experiment:
    """Without the yardsticks and tasks whose files are not here; each is named."""
    root = data_root()

    def yardsticks(given: list[str]) -> list[str]:
        lacking = {name: missing_file(name, root) for name in named(given)}
        for name, what in lacking.items():
            if what and name in given:
                say(f"{experiment.name}: {name} is left out: {what}")
        return [name for name in given if not lacking.get(name)]

    tasks, reasons = [], {}
    for given in experiment.finetune:
        reason = _missing_task(given, root)
        if reason is None:
            tasks.append(given if root is None or "task.root" in given else given | {"task.root": str(root)})
        else:
            reasons[given["task"]] = reason
    for name, reason in reasons.items():
        say(f"{experiment.name}: task={name} is left out: {reason}")
    cells = [replace(cell, evaluate=yardsticks(cell.evaluate)) for cell in experiment.cells]
    return replace(experiment, evaluate=yardsticks(experiment.evaluate), finetune=tasks, cells=cells)


def _missing_task(given: dict[str, Any], root: Path | None) -> str | None:
    from lmzoo.tasks.describe import read_config
    from lmzoo.tasks.files import Sources

    place = given.get("task.root", root)
    config, home = read_config(given["task"])
    if config.format == "hub":
        return None
    try:
        sources = Sources(config, Path(place) if place else home, set())
        for part in ("train", "test" if config.test else "valid"):
            if getattr(config, part):
                sources.paths(part)
    except LmzooError as error:
        hint = "" if place else "; or set LMZOO_DATA to the folder that it lies in"
        return f"{error}{hint}"
    return None
