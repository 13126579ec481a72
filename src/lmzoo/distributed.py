"""Data-parallel training: how the ranks above 0 are started, and what is put back afterwards.

Lightning starts them by running the command again. Under Hydra that command would compose the config
again, in another folder, and in a sweep run every job again. So here the ranks get a command of their
own, and the config and the folder of the very job they belong to in the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

RANK_JOB = "LMZOO_RANK_JOB"
"""Environment variable that tells a rank above 0 what to run."""

SECONDS_TO_END = 60.0
"""How long rank 0 waits for the others, which do the same work, before it ends them."""

_SET_BY_LIGHTNING = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank_command() -> list[str]:
    """The command of a rank above 0; all else it finds in the environment."""
    return [sys.executable, "-m", "lmzoo.train"]


def rank_job() -> dict[str, Any] | None:
    """``{"folder", "config", "resuming"}`` in a rank above 0, None in every other process."""
    handed = os.environ.get(RANK_JOB)
    return None if handed is None else json.loads(handed)


@contextmanager
def as_rank_command(folder: Path, config: dict[str, Any], resuming: bool) -> Iterator[None]:
    """Inside, Lightning starts ranks above 0 by ``rank_command``; afterwards the next job starts clean.

    The block holds everything that a Trainer does: the ranks live until its end. In a rank above 0,
    and where only one process trains, it changes nothing.

    Args:
        folder: the run's folder.
        config: the run's resolved config as plain containers.
        resuming: whether the run goes on from its last checkpoint.
    """
    from lightning.fabric.strategies.launchers import subprocess_script as fabric_launcher
    from lightning.pytorch.strategies.launchers import subprocess_script as launcher

    observers: list[Any] = []

    def command_and_folder(local_rank: int) -> tuple[list[str], str]:
        return rank_command(), os.getcwd()

    def observe(processes: list[subprocess.Popen]) -> None:
        # A thread that ends this process as soon as one of the others fails: else it would wait for it.
        observers.append(fabric_launcher._ChildProcessObserver(os.getpid(), processes))
        observers[-1].start()

    job = {"folder": str(folder.resolve()), "config": config, "resuming": resuming}
    before = {name: os.environ.get(name) for name in (*_SET_BY_LIGHTNING, RANK_JOB)}
    os.environ[RANK_JOB] = json.dumps(job)
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
