"""Run folders: claimed by one run only, and gone where nothing came of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lmzoo.config import save_config
from lmzoo.errors import LmzooError
from lmzoo.settings import TrainConfig
from lmzoo.sweeps.record import FILE, JOBS


@dataclass(frozen=True)
class Announced:
    """What Hydra tells of a sweep before it starts."""

    folder: Path
    launcher: str
    """``basic``, ``joblib``, ``submitit``, …"""
    at_once: int | None
    """How many jobs at the same time; None where nobody says."""
    trials: int | None
    """How many jobs a sweeper will make that makes them as it goes."""


_made_here: set[Path] = set()
"""Folders that were not there before this command."""

_sweeps: list[Announced] = []
"""The sweep that this command is, if it is one."""

_going_on: set[Path] = set()
"""Folders of sweeps that may go on in this command."""


class WatchFolders(Callback):
    """Told by Hydra of a folder just before it is made; named in conf/train.yaml."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        remember(Path(config.hydra.run.dir).absolute())

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        if (folder / "multirun.yaml").exists() and folder not in _going_on:
            # Hydra turns an Exception in a callback into a warning, and would write over the file.
            sys.exit(
                f"error: {folder} holds a sweep already: give another hydra.sweep.dir=, or go on with it by "
                f"sweep.resume={folder}"
            )
        remember(folder)
        launcher = config.hydra.launcher
        kind = next((name for name in _AT_ONCE if name in str(launcher.get("_target_"))), "basic")
        trials = config.hydra.sweeper.get("n_trials")
        _sweeps.append(Announced(folder, kind, _AT_ONCE[kind](launcher), trials))


_AT_ONCE: dict[str, Callable[[Any], int | None]] = {
    "joblib": lambda launcher: launcher.get("n_jobs"),
    "submitit": lambda launcher: launcher.get("array_parallelism"),
    "basic": lambda launcher: 1,
}
"""How many jobs a launcher has at the same time, by a part of its name."""


def announced() -> Announced:
    """The sweep that Hydra is about to start."""
    return _sweeps[-1]


def any_announced() -> bool:
    """Whether there is such a sweep: Hydra may have ended before it."""
    return bool(_sweeps)


def may_go_on(folder: Path) -> None:
    """Let a sweep start in the folder of one that was begun before."""
    _going_on.add(folder)


def remember(folder: Path) -> None:
    """Keep in mind which of a folder and those around it this command will make."""
    _made_here.update(path for path in (folder, *folder.parents) if not path.exists())


def claim(folder: Path, config: TrainConfig) -> None:
    """Make ``folder`` this run's by writing its `config.yaml`.

    Raises:
        LmzooError: where it is another run's, of which nothing is touched; or it cannot be written to.
    """
    try:
        save_config(config, folder / "config.yaml")
    except FileExistsError:
        raise LmzooError(
            f"{folder} holds a run already: give another hydra.run.dir=, or resume={folder} to go on with it"
        ) from None
    except OSError as error:
        raise LmzooError(
            f"{folder} cannot be written to ({error.strerror}); give another hydra.run.dir="
        ) from error


def give_up(folder: Path) -> None:
    """Remove a claimed folder in which no step was logged or saved, with the folders around it."""
    history = folder / "history.csv"
    if {path.name for path in folder.iterdir()} <= {"config.yaml", "history.csv"}:
        if history.exists() and history.read_text(encoding="utf-8").count("\n") > 1:
            return
        with suppress(OSError):  # on a disk that takes nothing, which has been told by now
            history.unlink(missing_ok=True)
            (folder / "config.yaml").unlink()
    remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Remove ``folder`` if it is empty, and so on upwards through those that this command made."""
    while not any(folder.iterdir()):
        try:
            folder.rmdir()
        except OSError:
            break
        folder = folder.parent
        if folder not in _made_here:
            break


def end_sweep() -> None:
    """Remove the sweep's folder if no job left anything in it."""
    while _sweeps:
        folder = _sweeps.pop().folder
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"multirun.yaml", FILE, JOBS}:
            shutil.rmtree(folder / JOBS, ignore_errors=True)
            for name in ("multirun.yaml", FILE):
                (folder / name).unlink(missing_ok=True)
            remove_empty(folder)
