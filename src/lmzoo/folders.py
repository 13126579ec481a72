"""Run folders: claimed by one run only, and gone where nothing came of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from lmzoo.config import save_config
from lmzoo.errors import LmzooError
from lmzoo.settings import TrainConfig

_made_here: set[Path] = set()
"""Folders that were not there before this command."""

_sweeps: list[Path] = []
"""The folder of the sweep that this command is, if it is one."""


class WatchFolders(Callback):
    """Told by Hydra of a folder just before it is made; named in conf/train.yaml."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _remember(Path(config.hydra.run.dir).absolute())

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        if (folder / "multirun.yaml").exists():
            # Hydra turns an Exception in a callback into a warning, and would write over the file.
            sys.exit(f"error: {folder} holds a sweep already: give another hydra.sweep.dir=")
        _remember(folder)
        _sweeps.append(folder)


def _remember(folder: Path) -> None:
    _made_here.update(path for path in (folder, *folder.parents) if not path.exists())


def claim(folder: Path, config: TrainConfig) -> None:
    """Make ``folder`` this run's by writing its `config.yaml`.

    Raises:
        LmzooError: where it is another run's, of which nothing is touched.
    """
    try:
        save_config(config, folder / "config.yaml")
    except FileExistsError:
        raise LmzooError(
            f"{folder} holds a run already: give another hydra.run.dir=, or resume={folder} to go on with it"
        ) from None


def give_up(folder: Path) -> None:
    """Remove a claimed folder in which no step was logged or saved, with the folders around it."""
    history = folder / "history.csv"
    if {path.name for path in folder.iterdir()} <= {"config.yaml", "history.csv"}:
        if history.exists() and history.read_text(encoding="utf-8").count("\n") > 1:
            return
        history.unlink(missing_ok=True)
        (folder / "config.yaml").unlink()
    remove_empty(folder)


def remove_empty(folder: Path) -> None:
    """Remove ``folder`` if it is empty, and so on upwards through those that this command made."""
    while not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
        if folder not in _made_here:
            break


def end_sweep() -> None:
    """Remove the sweep's folder if no job left anything in it."""
    while _sweeps:
        folder = _sweeps.pop()
        if folder.is_dir() and [path.name for path in folder.iterdir()] == ["multirun.yaml"]:
            (folder / "multirun.yaml").unlink()
            remove_empty(folder)
