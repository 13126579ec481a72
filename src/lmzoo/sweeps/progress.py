"""How far a sweep is: jobs done, running, failed and left, and how long it will take."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from lmzoo.progress import console, say
from lmzoo.sweeps.record import DONE, FAILED, RUNNING, SKIPPED, STOPPED, Job, State, read_states

SECONDS_BETWEEN_LOOKS = 2.0


def seconds_left(jobs: Sequence[Job], states: Mapping[int, State], at_once: int, now: float) -> float | None:
    """How long the jobs that are not done will take, from those of their kind that are.

    Args:
        jobs: of this command.
        states: of the jobs begun.
        at_once: how many run at the same time.
        now: in seconds since the epoch, as the states have it.

    Returns:
        None until the first job is done.
    """
    took: dict[str, list[float]] = {}
    for state in states.values():
        if state.state == DONE and state.ended is not None:
            took.setdefault(state.kind, []).append(state.ended - state.started)
    if not took:
        return None
    every = [seconds for several in took.values() for seconds in several]
    work = longest = 0.0
    for job in jobs:
        state = states.get(job.number)
        if state is not None and state.state != RUNNING:
            continue
        seconds = fmean(took.get(job.kind, every))
        if state is not None:
            seconds = max(seconds - (now - state.started), 0.0)
        work += seconds
        longest = max(longest, seconds)
    return max(work / max(at_once, 1), longest)


def states_now(sweep: Path, began: float) -> dict[int, State]:
    """The states of the jobs; one that an earlier command left says nothing of this one, unless it is done."""
    return {n: s for n, s in read_states(sweep).items() if s.started >= began or s.state == DONE}


def line(jobs: Sequence[Job], states: Mapping[int, State], at_once: int, now: float) -> str:
    """``sweep  3 of 9 done · 1 running · 1 failed · 4 left · about 12 min``"""
    mine = {job.number: states[job.number] for job in jobs if job.number in states}
    counts: dict[str, int] = dict.fromkeys((DONE, RUNNING, FAILED, SKIPPED, STOPPED), 0)
    for state in mine.values():
        counts[state.state] = counts.get(state.state, 0) + 1
    parts = [f"sweep  {counts[DONE]} of {len(jobs)} done"]
    parts += [f"{counts[name]} {name}" for name in (RUNNING, FAILED, SKIPPED, STOPPED) if counts[name]]
    waiting = len(jobs) - len(mine)
    if waiting:
        parts.append(f"{waiting} left")
    if waiting or counts[RUNNING]:
        seconds = seconds_left(jobs, states, at_once, now)
        if seconds is not None:
            parts.append(f"about {duration(seconds)}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``"""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def at_once_of(asked: int | None, jobs: int) -> int:
    """How many jobs run at the same time: -1 is one a core, and None as many as there are."""
    if asked is None:
        return max(jobs, 1)
    return max(min(asked if asked > 0 else os.cpu_count() or 1, jobs), 1)


@contextmanager
def watched(sweep: Path, jobs: Sequence[Job], at_once: int) -> Iterator[None]:
    """While jobs run in other processes, tell from their states what goes on.

    On a terminal the line is kept up to date; elsewhere it is written when a job has ended. What failed is told
    at once, as a line of its own.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(sweep, jobs, at_once, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(sweep: Path, jobs: Sequence[Job], at_once: int, ended: threading.Event) -> None:
    began = time.time()
    mine, told = {job.number for job in jobs}, set[int]()
    with console.status("") if console.is_terminal else _nothing() as status:
        while True:
            last = ended.wait(SECONDS_BETWEEN_LOOKS)
            states = states_now(sweep, began)
            over = [s for n, s in states.items() if n in mine and s.state != RUNNING and n not in told]
            for state in over:
                told.add(state.number)
                if state.state == FAILED:
                    print(f"error: {state.name}: {state.error}", file=sys.stderr, flush=True)
            shown = line(jobs, states, at_once, time.time())
            if status is not None:
                status.update(shown)
            elif over and not last:
                say(shown)
            if last:
                return


@contextmanager
def _nothing() -> Iterator[None]:
    yield None
