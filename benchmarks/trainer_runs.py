"""How ``benchmarks.trainer`` runs things: our command, and the tasks of ``trainer_theirs``, one at a time."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import trainer_theirs
from benchmarks.measure import ROOT, in_child


class Failed(Exception):
    """What ends the benchmark with one line."""


class Diverged(Failed):
    """A training of ours that stopped because its loss was not finite: the rate is too high."""


def quoted(path: Path) -> str:
    """A path as a value on our command line."""
    escaped = str(path.absolute()).replace("'", "\\'")
    return f"'{escaped}'"


@dataclass(frozen=True)
class CommandRun:
    """What a run of our command left behind."""

    metrics: dict[str, Any]
    """metrics.json."""
    history: list[dict[str, str]]
    """history.csv."""
    whole_seconds: float
    """From the start of the process to its end."""

    def pace(self, warmup: int) -> float:
        """Tokens a second of training from that step on, which must be among the logged ones."""
        figures = [
            (float(row["train/tokens_seen"]), float(row["train/tokens_per_second"]))
            for row in self.history
            if row["train/tokens_per_second"] and int(row["step"]) >= warmup
        ]
        return trainer_theirs.pace([(tokens, tokens / rate) for tokens, rate in figures])

    @property
    def last_loss(self) -> float:
        """Of the last training step."""
        return float([row["train/loss"] for row in self.history if row["train/loss"]][-1])


@dataclass
class Bench:
    """A folder for runs, and what all of them have in common."""

    folder: Path
    overrides: list[str]
    """The text, the tokenizer and the length."""
    inside: bool = False
    """Whether the tasks of ``trainer_theirs`` run in this process, which is quicker and quotes nothing."""
    last_loss: float = float("nan")
    """Of the last step of our latest command."""
    _numbers: Any = field(default_factory=itertools.count)

    def prepare(self) -> None:
        """Have the corpus and the tokenizer in the cache, where every run finds them."""
        trainer_theirs.opened(self.overrides)

    def new_folder(self) -> Path:
        return self.folder / f"run{next(self._numbers)}"

    def command(self, overrides: list[str], keep: Path | None = None) -> CommandRun:
        """Run `python -m lmzoo.train`; its folder is read, and removed unless it is to be kept.

        Args:
            overrides: beside those that all have in common.
            keep: the folder of the run, which stays.

        Raises:
            Diverged: it stopped at a loss that is not finite.
            Failed: it stopped at anything else; with the end of what it said.
        """
        folder = keep or self.new_folder()
        given = [*self.overrides, *overrides, f"hydra.run.dir={quoted(folder)}"]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "lmzoo.train", *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            kind = Diverged if "is not finite" in done.stderr else Failed
            raise kind(f"python -m lmzoo.train {' '.join(given)} failed: {done.stderr[-2000:]}")
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        with (folder / "history.csv").open(encoding="utf-8", newline="") as file:
            run = CommandRun(metrics, list(csv.DictReader(file)), seconds)
        if keep is None:
            shutil.rmtree(folder)  # checkpoints of many runs would fill a disk
        self.last_loss = run.last_loss
        return run

    def ask(self, task: str, settings: dict[str, Any]) -> dict[str, float]:
        """What a task of ``trainer_theirs`` gives. Raises Failed with the end of what it said."""
        if self.inside:
            return trainer_theirs.TASKS[task](settings)
        try:
            return in_child("benchmarks.trainer_theirs", task, json.dumps(settings))
        except RuntimeError as error:
            raise Failed(str(error)) from error
