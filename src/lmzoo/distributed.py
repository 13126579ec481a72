"""Data-parallel training: how the ranks above 0 come to their job, and what is put back afterwards.

Rank 0 alone composes a config and claims a folder: a second Hydra would look at the clock again, and in a
sweep run every job again. Where Lightning starts the ranks, they get a command of their own, and their job in
the environment. Where a launcher (torchrun, srun) has started the same command everywhere, rank 0 hands the
job to the others through the store that the process group is going to use; see ``lmzoo.launched``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from lmzoo import signals
from lmzoo.launched import Relay, launch

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

RANK_JOB = "LMZOO_RANK_JOB"
"""Environment variable that tells a rank above 0 what to run."""

SECONDS_TO_END = 60.0
"""How long rank 0 waits for the others, which do the same work, before it ends them."""

SECONDS_TO_NOTICE = 0.5
"""How often a rank that rank 0 has started looks whether it is still there."""

_SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank_command() -> list[str]:
    """The command of a rank above 0; all else it finds in the environment."""
    return [sys.executable, "-m", "lmzoo.train"]


def _end_with(parent: int) -> None:
    """End this process as soon as its parent, rank 0, has gone.

    A rank that waits for a group that rank 0 has not yet made would else wait for half an hour, and hold the
    run's folder.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_TO_NOTICE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_relays: list[Relay] = []
"""In rank 0 of a launcher's processes, the way to the others."""


@contextmanager
def taking_part() -> Iterator[dict[str, Any] | None]:
    """Around a whole command: gives ``{"folder", "config", "resuming"}`` in a rank above 0, else None.

    A launcher's ranks above 0 wait here for rank 0, while it composes, prepares the corpus, or refuses.

    Raises:
        SystemExit: status 0 in a launcher's rank above 0, where rank 0 ended without a job.
        LmzooError: rank 0 has gone.
    """
    handed = os.environ.get(RANK_JOB)
    started = launch() if handed is None else None
    if started is None or started.processes == 1:
        job = None if handed is None else json.loads(handed)
        if job is not None:
            _end_with(job.pop("parent"))
        yield job
        return
    relay = Relay(started, cluster_environment())
    if started.rank:
        job = relay.receive()
        if job is None:  # which rank 0 has told of, if it is to be told of
            sys.exit(0)
        yield job
        return
    _relays.append(relay)
    try:
        yield None
    finally:
        _relays.remove(relay)
        relay.release()


def cluster_environment() -> ClusterEnvironment:
    """Who has started the processes, in Lightning's words; it would take any SLURM job for srun's."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    started = launch() if RANK_JOB not in os.environ else None
    if started is None:
        return LightningEnvironment()
    if started.launcher == "torchrun":
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False)  # its own would write checkpoints of its own


@contextmanager
def as_rank_command(folder: Path, config: dict[str, Any], resuming: bool) -> Iterator[None]:
    """Inside, Lightning starts ranks above 0 by ``rank_command``; afterwards the next job starts clean.

    The block holds everything that a Trainer does: the ranks live until its end. In a rank above 0,
    and where only one process trains, it changes nothing. Under a launcher it hands the job to its ranks.

    Args:
        folder: the run's folder.
        config: the run's resolved config as plain containers.
        resuming: whether the run goes on from its last checkpoint.
    """
    job = {"folder": str(folder.resolve()), "config": config, "resuming": resuming}
    if RANK_JOB not in os.environ and launch() is not None:
        for relay in _relays:
            relay.hand(job)
        try:
            yield
        finally:
            _end_group()
        return
    from lightning.fabric.strategies.launchers import subprocess_script as fabric_launcher
    from lightning.pytorch.strategies.launchers import subprocess_script as launcher

    observers: list[Any] = []

    def command_and_folder(local_rank: int) -> tuple[list[str], str]:
        return rank_command(), os.getcwd()

    def observe(processes: list[subprocess.Popen]) -> None:
        # A thread that ends this process as soon as one of the others fails: else it would wait for it.
        observers.append(fabric_launcher._ChildProcessObserver(os.getpid(), processes))
        observers[-1].start()
        signals.remember_ranks(processes)

    before = {name: os.environ.get(name) for name in (*_SET_BY_LIGHTNING, RANK_JOB)}
    os.environ[RANK_JOB] = json.dumps(job | {"parent": os.getpid()})
    failed = True
    try:
        # Lightning asks the one where Hydra runs and the other where it does not; the two modules
        # hold names of their own for them.
        with (
            patch.object(fabric_launcher, "_hydra_subprocess_cmd", command_and_folder),
            patch.object(launcher, "_hydra_subprocess_cmd", command_and_folder),
            patch.object(fabric_launcher, "_basic_subprocess_cmd", rank_command),
            patch.object(launcher, "_basic_subprocess_cmd", rank_command),
            patch.object(launcher, "_launch_process_observer", observe),
        ):
            yield
        failed = False
    finally:
        _end_group()
        for observer in observers:
            _end_ranks(observer, at_once=failed)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _end_group() -> None:
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _end_ranks(observer: Any, at_once: bool) -> None:
    """Let the ranks come to their end, or end them, and the thread that would end this process with them."""
    processes, observer._child_processes = observer._child_processes, []
    for process in processes:
        try:
            process.wait(0 if at_once else SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
