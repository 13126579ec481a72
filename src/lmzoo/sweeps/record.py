"""What is kept of a sweep in its folder: the jobs that it has, and what became of each.

sweep.json      what was typed, the jobs, and what was skipped; written before the first job
jobs/N.json     the state of job N, written by whoever runs it, in whichever process and on whichever machine
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lmzoo import __version__
from lmzoo.errors import LmzooError

FILE, JOBS = "sweep.json", "jobs"
RUNNING, DONE, FAILED, SKIPPED, STOPPED = "running", "done", "failed", "skipped", "stopped"

MINE = "sweep."
"""Keys that are said of the sweep and not of a run."""
KEYS = {
    "resume": "the folder of a sweep to go on with: what is missing or unfinished is run, and nothing else",
    "metric": "the figure of metrics.json that a sweeper such as Optuna's minimises; valid/loss by default",
    "rates": "of an experiment: the learning rates that each arm tries, in place of those of its file",
}

SECONDS_OF_SILENCE = 900.0
"""A job on another machine that has written nothing for so long is taken to have ended."""


@dataclass
class Job:
    """One run of a sweep."""

    number: int
    overrides: list[str]
    """What is said of this run, Hydra's own settings left out."""
    kind: str = ""
    """Model and size: runs of one kind take about as long."""
    cells: list[str] = field(default_factory=list)
    """The cells of an experiment that this run serves."""
    finetune: list[dict[str, Any]] = field(default_factory=list)
    """What the trained model is put to."""
    folder: str = ""
    """Within the sweep's; by default as Hydra names it."""
    own: list[str] = field(default_factory=list)
    """The overrides that not all jobs of the sweep have; empty where that is not known."""

    @property
    def name(self) -> str:
        said = self.own or self.overrides
        if self.cells:  # what all runs of an experiment have in common says nothing
            said = [e for e in self.overrides if e.startswith(("seed=", "optimizer.lr="))]
            said = [f"{' | '.join(self.cells)}:", *said]
        return f"job {self.number} ({' '.join(said)})"


@dataclass
class Skipped:
    """A combination that cannot be."""

    overrides: list[str]
    reason: str

    @property
    def name(self) -> str:
        return " ".join(self.overrides)


@dataclass
class State:
    """What became of a job."""

    number: int
    name: str
    state: str = RUNNING
    folder: str = ""
    """Of the run."""
    kind: str = ""
    started: float = field(default_factory=time.time)
    ended: float | None = None
    error: str | None = None
    process: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)

    def write(self, sweep: Path) -> None:
        """Put it into the sweep's folder, whole."""
        write_json(sweep / JOBS / f"{self.number}.json", asdict(self))

    def is_running(self, sweep: Path) -> bool:
        """Whether it goes on: its process is there, or it has written of late on another machine."""
        if self.state != RUNNING:
            return False
        if self.host != socket.gethostname():
            written = [self.started]
            with suppress(OSError):
                written += [(sweep / self.folder / name).stat().st_mtime for name in (".", "history.csv")]
            return time.time() - max(written) < SECONDS_OF_SILENCE
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


@dataclass
class Record:
    """A sweep as it was planned."""

    overrides: list[str]
    """As typed."""
    flags: list[str] = field(default_factory=list)
    """Hydra's, such as --config-dir."""
    jobs: list[Job] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    working_folder: str = field(default_factory=os.getcwd)
    """From which paths are meant."""
    version: str = __version__

    def write(self, sweep: Path) -> None:
        write_json(sweep / FILE, asdict(self))


def read_record(sweep: Path) -> Record:
    """What ``Record.write`` wrote.

    Raises:
        LmzooError: there is no such folder, or it is no sweep's.
    """
    if not sweep.is_dir():
        raise LmzooError(f"sweep.resume={sweep}: there is no such folder")
    try:
        values = json.loads((sweep / FILE).read_text(encoding="utf-8"))
        jobs = [_filled(Job, entry) for entry in values.pop("jobs")]
        skipped = [_filled(Skipped, entry) for entry in values.pop("skipped")]
        return _filled(Record, values | {"jobs": jobs, "skipped": skipped})
    except FileNotFoundError:
        what = "give the folder of a sweep"
        if (sweep / JOBS).is_dir():
            what = "its sweeper made the jobs as it went, and goes on by its own means (Optuna: a storage)"
        raise LmzooError(f"sweep.resume={sweep}: there is no {FILE} in it; {what}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LmzooError(f"{sweep / FILE} cannot be read ({error}); start the sweep again") from error


def _filled(kind: type, values: dict[str, Any]) -> Any:
    known = {entry.name for entry in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def read_states(sweep: Path) -> dict[int, State]:
    """The states of all jobs that were begun."""
    found = {}
    for path in (sweep / JOBS).glob("*.json"):
        with suppress(ValueError, TypeError, OSError):
            state = _filled(State, json.loads(path.read_text(encoding="utf-8")))
            found[state.number] = state
    return found


def left_of(sweep: Path, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are missing or unfinished, each with the folder in which it began.

    Raises:
        LmzooError: one of them is running now.
    """
    states = read_states(sweep)
    left = []
    for job in jobs:
        state = states.get(job.number)
        if state is not None and state.is_running(sweep):
            where = f"process {state.process} on {state.host}"
            raise LmzooError(f"{sweep}: {job.name} is running ({where}); wait for it, or end it first")
        if state is not None:
            job.folder = state.folder
        if state is None or state.state != DONE or not (sweep / state.folder / "metrics.json").is_file():
            left.append(job)
    return left


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all.

    Raises:
        LmzooError: the disk is full, or the folder cannot be written to.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise LmzooError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            beside.unlink()
