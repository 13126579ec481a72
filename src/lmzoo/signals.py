"""What ends a run from outside: SIGTERM, Ctrl-C, and SIGUSR1, with which SLURM announces the end of a job.

While a model trains such a signal waits: the step is finished and its checkpoint written (`LastCheckpoint` in
checkpoints.py), and only then `Stopped` is raised, on all ranks after the same step. Everywhere else what is
done is on the disk or quickly done again, and `Stopped` is raised at once. A second Ctrl-C ends the process
where it stands; what is being written then was not yet in its place.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SECONDS_OF_ONE_REQUEST = 0.3
"""A launcher may hand on the Ctrl-C that the terminal has sent already: that is no second one."""


class Stopped(BaseException):
    """A signal asks the run to end. No Exception, so that neither a sweep nor a library goes on past it.

    Args:
        number: of the signal.
        step: after which it ended, with a checkpoint; None where it was not in training.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(number, step)
        self.number = number
        self.step = step

    def __str__(self) -> str:
        what = "interrupted" if self.number == signal.SIGINT else f"ended by {_name(self.number)}"
        return what if self.step is None else f"{what} after step {self.step:,}"

    @property
    def status(self) -> int:
        """The exit status that shells give to it: 130, 138 or 143."""
        return 128 + self.number

    @property
    def preempted(self) -> bool:
        """Whether the machine, not the user at the terminal, wanted it."""
        return self.number != signal.SIGINT


@dataclass
class _Watch:
    folder: Path
    raises: bool
    held: bool = False
    received: int = 0
    since: float = 0.0
    ranks: list[subprocess.Popen] = field(default_factory=list)


_watch: _Watch | None = None


@contextmanager
def watched(folder: Path, raises: bool = True) -> Iterator[None]:
    """Inside, the signals are taken as the head of this file says; one that is ignored stays so.

    Args:
        folder: the run's, named in what is said.
        raises: False in a rank that another one ends: there a signal is only remembered.
    """
    global _watch
    if threading.current_thread() is not threading.main_thread():  # Python takes signals there alone
        yield
        return
    outer, _watch = _watch, _Watch(folder, raises)
    before = {number: signal.getsignal(number) for number in HANDLED}
    take_over()
    try:
        yield
    finally:
        _watch = outer
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def take_over() -> None:
    """Handle the signals here, also where Lightning has just put in handlers of its own.

    Those talk to the other ranks in the middle of whatever these are talking about.
    """
    if _watch is not None:
        for number in HANDLED:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _handle)


def hold() -> None:
    """From now on a signal waits: whoever calls this looks at ``received`` after every step."""
    take_over()
    if _watch is not None:
        _watch.held = True


def release(step: int) -> None:
    """No signal waits any longer, now that ``step`` is saved. Raises Stopped where one has come meanwhile."""
    if _watch is not None and _watch.held:
        _watch.held = False
        if _watch.received and _watch.raises:
            raise Stopped(_watch.received, step)


def let_go() -> None:
    """The same where the run is ending already."""
    if _watch is not None:
        _watch.held = False


def received() -> int:
    """The first signal that has come, or 0."""
    return _watch.received if _watch is not None else 0


def remember_ranks(processes: list[subprocess.Popen]) -> None:
    """Processes that a second Ctrl-C ends too."""
    if _watch is not None:
        _watch.ranks = processes


def _handle(number: int, frame: FrameType | None) -> None:
    watch = _watch
    assert watch is not None
    now = time.monotonic()
    if watch.received:
        if number == signal.SIGINT and now - watch.since > SECONDS_OF_ONE_REQUEST:
            _end_at_once(watch)
        return
    watch.received, watch.since = number, now
    if not watch.held and watch.raises:
        raise Stopped(number)
    if watch.raises:
        _write(f"{_name(number)}: finishing the step, then a checkpoint; Ctrl-C now ends at once")


def _end_at_once(watch: _Watch) -> None:
    for process in watch.ranks:
        with suppress(OSError):
            process.kill()
    if watch.raises:
        _write(f"error: interrupted at once; {how_to_go_on(watch.folder)}")
    os._exit(128 + signal.SIGINT)


def _write(line: str) -> None:
    """To the terminal, past the buffers, of which a signal may have come in the middle."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _name(number: int) -> str:
    return signal.Signals(number).name


def how_to_go_on(folder: Path) -> str:
    """What to type to go on with the run in ``folder``."""
    return f"go on with: python -m lmzoo.train {shlex.quote(f'resume={folder}')}"


def requeue(stop: Stopped) -> str:
    """After SIGUSR1 in a SLURM job, have SLURM start the job again.

    Returns:
        what to add to the line that ends the run; nothing where there is no such job.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if stop.number != signal.SIGUSR1 or not job or os.environ.get("SLURM_PROCID", "0") != "0":
        return ""
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        reason = "" if asked.returncode == 0 else asked.stderr.strip() or f"status {asked.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(error)
    return f"; SLURM starts job {job} again" if not reason else f"; scontrol requeue {job} failed: {reason}"
