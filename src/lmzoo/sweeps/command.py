"""`python -m lmzoo.train -m …`: plan the jobs, launch what can be and is not done, tell what became of them."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.folders import announced, any_announced, end_sweep, may_go_on
from lmzoo.progress import say
from lmzoo.sweeps.jobs import Jobs
from lmzoo.sweeps.launch import launch
from lmzoo.sweeps.plan import check
from lmzoo.sweeps.progress import at_once_of, duration, line, states_now, watched
from lmzoo.sweeps.record import (
    DONE,
    FAILED,
    JOBS,
    KEYS,
    MINE,
    RUNNING,
    SKIPPED,
    STOPPED,
    Job,
    Record,
    Skipped,
    State,
    left_of,
    read_record,
    read_states,
)


@dataclass
class Asked:
    """A sweep's command line, parted."""

    flags: list[str]
    """Hydra's, -m among them."""
    overrides: list[str]
    """What is said of the runs."""
    hydra: list[str]
    """What is said of Hydra: launcher, sweeper, folders."""
    own: dict[str, str]
    """What is said of the sweep, without ``sweep.``."""

    @classmethod
    def of(cls, flags: Sequence[str], arguments: Sequence[str]) -> Asked:
        """Raises LmzooError for a key of ``sweep.`` that there is not."""
        own, hydra, rest = {}, [], []
        for argument in arguments:
            key, _, value = argument.partition("=")
            if key.startswith(MINE):
                name = key.removeprefix(MINE)
                if name not in KEYS:
                    raise LmzooError(f"{key}: there is no such key; sweep has: {', '.join(KEYS)}")
                own[name] = value.strip("'\"")
            elif key.lstrip("+~").startswith(("hydra.", "hydra/")):
                hydra.append(argument)
            else:
                rest.append(argument)
        return cls(list(flags), rest, hydra, own)

    @property
    def search_path(self) -> list[str]:
        """What makes Hydra find the user's own choices where it is asked to compose one job."""
        given = [entry for entry in self.hydra if entry.startswith("hydra.searchpath=")]
        return given or ([f"hydra.searchpath=[file://{self.config_dir}]"] if self.config_dir else [])

    @property
    def config_dir(self) -> str | None:
        """The folder of the user's own choices."""
        for place, flag in enumerate(self.flags):
            if flag in ("--config-dir", "-cd") and place + 1 < len(self.flags):
                return os.path.abspath(self.flags[place + 1])
            if flag.startswith("--config-dir="):
                return os.path.abspath(flag.partition("=")[2])
        return None

    @property
    def sweeps_by_hydra(self) -> bool:
        """Whether all jobs are known beforehand."""
        given = [entry.partition("=")[2] for entry in self.hydra if entry.startswith("hydra/sweeper=")]
        return not given or given[-1] == "basic"


@dataclass
class Outcome:
    """What became of the jobs of one command."""

    folder: Path
    jobs: list[Job] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=dict)
    seconds: float = 0.0
    named: Path | None = None
    """The folder to go on with, where it is another: of the experiment that this sweep is a part of."""

    def of(self, state: str) -> list[State]:
        return [s for s in self.states.values() if s.state == state]


def sweep(asked: Asked, jobs: Jobs) -> Outcome:
    """A sweep from the beginning.

    Raises:
        LmzooError: nothing of it can run.
    """
    skipped: list[Skipped] = []

    def choose(every: list[list[str]]) -> list[list[str]]:
        folder = announced().folder
        possible, left_out = check(
            [Job(i, overrides) for i, overrides in enumerate(every)], asked.search_path
        )
        skipped.extend(left_out)
        Record([*asked.overrides, *asked.hydra], kept_flags(asked.flags), possible, left_out).write(folder)
        if left_out:
            say(f"sweep  {len(left_out)} of {len(every)} combinations cannot be, and are skipped")
        jobs.planned, jobs.began = possible, True
        return [job.overrides for job in possible]

    if not asked.sweeps_by_hydra:
        jobs.metric = asked.own.get("metric", "valid/loss")
        if not any(entry.startswith("hydra.sweeper.max_failure_rate=") for entry in asked.hydra):
            asked.hydra.append("hydra.sweeper.max_failure_rate=1")  # a trial that fails ends only itself
    argv = [*asked.flags, *asked.overrides, *asked.hydra]
    return _launched(jobs, argv, choose if asked.sweeps_by_hydra else None, skipped)


def go_on(folder: Path, asked: Asked, jobs: Jobs) -> Outcome | None:
    """The jobs of a sweep that are missing or unfinished; None where none is.

    Raises:
        LmzooError: there is no such sweep, or one of its jobs is running; something is said that would change it.
    """
    record = read_record(folder)
    changed = changes(asked)
    if Path(record.working_folder).is_dir():
        os.chdir(record.working_folder)  # paths were meant from there
    left = left_of(folder, record.jobs)
    if not left:
        return None
    overrides = said_anew(record.overrides, asked.hydra)
    return run_jobs(folder, left, record.flags, overrides, jobs, record.skipped, changed)


def run_jobs(
    folder: Path,
    planned: list[Job],
    flags: Sequence[str],
    overrides: Sequence[str],
    jobs: Jobs,
    skipped: Sequence[Skipped] = (),
    changed: Sequence[str] = (),
    named: Path | None = None,
) -> Outcome:
    """Launch jobs that are known, in the folder of a sweep that may have been begun.

    Args:
        folder: the sweep's.
        planned: the jobs.
        flags: Hydra's, -m left out.
        overrides: what was typed for the whole sweep, of which Hydra's own settings count.
        jobs: what Hydra calls.
        skipped: told at the end.
        changed: overrides beside those of each job, of hardware and logger.
        named: see ``Outcome.named``.
    """
    may_go_on(folder)
    jobs.goes_on = True
    numbered = not any(entry.startswith("hydra.sweep.subdir=") for entry in overrides)

    def choose(_: list[list[str]]) -> list[list[str]]:
        jobs.planned, jobs.began = planned, True
        places = [job.folder or (str(job.number) if numbered else "") for job in planned]
        pins = [[f"hydra.sweep.subdir={_quoted(place)}"] if place else [] for place in places]
        return [[*job.overrides, *changed, *pin] for job, pin in zip(planned, pins, strict=True)]

    argv = [*flags, "-m", *(entry for entry in overrides if not entry.startswith("hydra.sweep.dir="))]
    argv += [*changed, f"hydra.sweep.dir={_quoted(folder)}"]
    return _launched(jobs, argv, choose, list(skipped), named)


def conclude(outcome: Outcome) -> None:
    """Tell what was skipped and how many were done.

    Raises:
        LmzooError: jobs failed, naming them.
    """
    skipped = [(entry.name, entry.reason) for entry in outcome.skipped]
    skipped += [(state.name, state.error or "") for state in outcome.of(SKIPPED)]
    for name, reason in skipped:
        say(f"skipped: {name}: {reason}")
    done, failed = outcome.of(DONE), outcome.of(FAILED)
    if done:
        told = f"{len(done)} of {len(outcome.states)} done in {duration(outcome.seconds)}"
        say(f"sweep  {told} · {outcome.folder}")
    if failed:
        names = "; ".join(state.name for state in failed)
        place = outcome.named or outcome.folder
        hint = f"; run them again by sweep.resume={place}" if place.is_dir() else ""
        raise LmzooError(f"{len(failed)} of {len(outcome.states)} jobs failed: {names}{hint}")


# ---------------------------------------------------------------------------------- the parts


def _launched(
    jobs: Jobs,
    argv: Sequence[str],
    choose: Callable[..., list[list[str]]] | None,
    skipped: list[Skipped],
    named: Path | None = None,
) -> Outcome:
    began = time.time()
    error: Exception | None = None
    with ExitStack() as stack:

        def chosen(every: list[list[str]]) -> list[list[str]]:
            assert choose is not None
            overrides = choose(every)
            told, planned = announced(), jobs.planned or []
            at_once = at_once_of(told.at_once, len(planned))
            if told.launcher == "basic":
                jobs.tell = _teller(planned, began)
            else:
                stack.enter_context(watched(told.folder, planned, at_once))
            return overrides

        jobs.tell = _teller(None, began)
        try:
            launch(jobs.start, argv, None if choose is None else chosen)
        except (KeyboardInterrupt, SystemExit):
            # by the folder, as ``jobs.began`` is not told here of what workers begin for a sweeper that asks them
            if any_announced() and (announced().folder / JOBS).is_dir():
                put_down(announced().folder, began)
            _tell_how_to_go_on(jobs, named)
            raise
        except Exception as caught:
            if not jobs.began:
                end_sweep()
                raise
            error = caught
    outcome = _outcome(jobs, began, error, skipped)
    outcome.named = named
    return outcome


def _outcome(jobs: Jobs, began: float, error: Exception | None, skipped: list[Skipped]) -> Outcome:
    """What became of the jobs, and the end of the sweep."""
    folder = announced().folder
    states = {number: state for number, state in read_states(folder).items() if state.started >= began}
    planned = jobs.planned if jobs.planned is not None else [Job(s.number, []) for s in states.values()]
    for job in planned:
        state = states.get(job.number)
        if state is None or (state.state == RUNNING and not state.is_running(folder)):
            # its process is gone: killed, for want of memory or time, before it could say anything
            reason = "never began" if state is None else "its process ended without a word"
            said = f"{reason} ({' '.join(str(error).split())})" if error else reason
            states[job.number] = state or State(job.number, job.name, kind=job.kind)
            states[job.number].state, states[job.number].error = FAILED, said
            print(f"error: {job.name}: {said}", file=sys.stderr, flush=True)
    end_sweep()
    return Outcome(folder, planned, skipped, dict(sorted(states.items())), time.time() - began)


def _teller(planned: Sequence[Job] | None, began: float) -> Callable[[Job], object]:
    """Says how far the sweep is before each job that runs in this process."""

    def tell(job: Job) -> None:
        told = announced()
        every = planned or [Job(i, []) for i in range(told.trials or job.number + 1)]
        states = states_now(told.folder, began)
        say(f"{line(every, states, 1, time.time())} · {job.name}")

    return tell


def put_down(folder: Path, began: float) -> None:
    """Put jobs down as stopped that were begun since ``began`` and whose process an interruption has ended before
    it could say so; those that have not ended soon are left to say it themselves."""
    until = time.monotonic() + _SECONDS_TO_END
    while True:
        running = [s for s in read_states(folder).values() if s.started >= began and s.state == RUNNING]
        for state in running:
            if not state.is_running(folder):
                state.state, state.ended = STOPPED, time.time()
                state.write(folder)
        if all(state.state == STOPPED for state in running) or time.monotonic() > until:
            return
        time.sleep(0.1)


_SECONDS_TO_END = 3.0


def _tell_how_to_go_on(jobs: Jobs, named: Path | None) -> None:
    folder = (named or announced().folder) if jobs.began and jobs.planned is not None else None
    end_sweep()
    if folder is not None and folder.is_dir():
        say(f"the sweep goes on by: python -m lmzoo.train -m {shlex.quote(f'sweep.resume={folder}')}")


def changes(asked: Asked) -> list[str]:
    """What may be said with ``sweep.resume=`` of the runs.

    Raises:
        LmzooError: anything but hardware, logger and Hydra's launcher.
    """
    for key in asked.own:
        if key != "resume":
            raise LmzooError(f"{MINE}{key}= cannot be given with sweep.resume=")
    for entry in asked.overrides:
        if entry.partition("=")[0].split(".")[0] not in ("hardware", "logger"):
            raise LmzooError(
                f"{entry} cannot be given with sweep.resume=: the jobs come from the sweep, and only hardware, "
                "logger and hydra.launcher may differ"
            )
    for entry in asked.hydra:
        if not entry.startswith(("hydra/launcher=", "hydra.launcher.")):
            raise LmzooError(f"{entry} cannot be given with sweep.resume=: only hydra.launcher may differ")
    return asked.overrides


def kept_flags(flags: Sequence[str]) -> list[str]:
    """Hydra's flags without the one that every sweep has."""
    return [flag for flag in flags if flag not in ("-m", "--multirun")]


def said_anew(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """What was typed, with what is said now in its place; another launcher takes none of the old one's settings."""
    keys = {entry.partition("=")[0] for entry in now}
    other = "hydra/launcher" in keys
    kept = [
        entry
        for entry in before
        if entry.partition("=")[0] not in keys and not (other and entry.startswith("hydra.launcher."))
    ]
    return [*kept, *now]


def _quoted(value: Any) -> str:
    """A value as Hydra reads it, whatever characters it has."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
