"""SIGKILL in the middle of things, again and again, and a run that ends as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lmzoo import checkpoint_files, disk, training
from lmzoo.checkpoint_files import read_checkpoint_file
from lmzoo.cli import has_checkpoint
from lmzoo.config import save_config
from lmzoo.data.writer import PartWriter
from lmzoo.errors import LmzooError
from lmzoo.modules import LanguageModelModule
from lmzoo.training import train
from small_runs import FAMILIES, assert_same, config_of, ended, fork, history, kill_at, outcome, start, until
from test_logs import offline_folders, records

MOMENTS: dict[str, Callable[[], None]] = {
    "while the corpus is prepared": lambda: kill_at(PartWriter, "append", 1),
    "between micro-batches, before the first checkpoint": lambda: kill_at(LanguageModelModule, "_divided", 4),
    "between micro-batches": lambda: kill_at(LanguageModelModule, "_divided", 10),
    "in the middle of a checkpoint": lambda: kill_at(checkpoint_files._Hashed, "write", 30),
    "as a checkpoint takes its place": lambda: kill_at(os, "replace", 4),
    "before the optimizer": lambda: kill_at(LanguageModelModule, "on_before_optimizer_step", 4),
    "in a validation": lambda: kill_at(LanguageModelModule, "validation_step", 3),
    "in the last validation": lambda: kill_at(LanguageModelModule, "_finish_scores", 2),
    "before the export": lambda: kill_at(training, "export_model", 1),
    "after the export": lambda: kill_at(training, "export_model", 1, after=True),
}
"""In the order of a run, each by the calls of what goes on from the last checkpoint before it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("base")


def attempt(folder: Path, config, deadly: Callable[[], None] | None = None) -> int:
    """Start a process that trains, or goes on where the last one was killed; gives its id."""

    def work() -> None:
        if deadly is not None:
            deadly()
        train(config, folder, resuming=has_checkpoint(folder))

    return fork(work)


def test_wandb_has_every_row_up_to_the_checkpoint_of_a_killed_run_once(base, tmp_path):
    """Killed as soon as a checkpoint stands, with W&B's own process, which had the rows in its memory."""
    config = config_of("bert", "mlm", base, "logger=wandb", "logger.mode=offline", "budget.steps=9")
    folder, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    folder.mkdir()
    save_config(config, folder / "config.yaml")
    resumed_from = [0]
    for step in (3, 6):
        process = attempt(folder, config)
        until(lambda step=step: last.exists() and steps_of(folder) >= step, process)
        for one in [*children(process), process]:
            os.kill(one, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        resumed_from.append(steps_of(folder))
    assert ended(attempt(folder, config)) == 0
    resumed_from.append(9)
    for number, offline in enumerate(offline_folders(folder)):
        items = [row["item"] for row in records(offline)["history"]]
        logged = [item["trainer/global_step"] for item in items if "train/loss" in item]
        kept = range(resumed_from[number] + 1, resumed_from[number + 1] + 1)
        assert logged[: len(kept)] == list(kept)
        assert len(set(logged)) == len(logged)


def steps_of(folder: Path) -> int:
    return read_checkpoint_file(folder / "checkpoints" / "last.ckpt")["ledger"]["steps"]


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.parametrize(("family", "objective"), FAMILIES)
def test_a_run_that_is_killed_at_every_stage_ends_bit_for_bit_the_same(family, objective, base, tmp_path):
    config = config_of(family, objective, base)
    start(tmp_path / "straight", config)
    shutil.rmtree(base / "cache")
    folder = tmp_path / "killed"
    folder.mkdir()
    save_config(config, folder / "config.yaml")
    for moment, deadly in MOMENTS.items():
        assert ended(attempt(folder, config, deadly)) == -signal.SIGKILL, moment
        if has_checkpoint(folder):
            steps = steps_of(folder)
            numbers = [int(row["step"]) for row in history(folder)]
            assert numbers[:steps] == list(range(1, steps + 1)), moment
            assert len(set(numbers)) == len(numbers)
    assert ended(attempt(folder, config)) == 0
    assert_same(outcome(folder), outcome(tmp_path / "straight"))


def test_two_processes_do_not_train_in_one_folder(base, tmp_path, monkeypatch):
    config = config_of("bert", "mlm", base)
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(config, folder / "config.yaml")
    process = attempt(folder, config, lambda: setattr(LanguageModelModule, "training_step", _sleep))
    until((folder / "history.csv").exists, process)
    monkeypatch.setattr(disk, "SECONDS_FOR_ORPHANS", 0.3)
    with pytest.raises(LmzooError, match=f"another process trains in {folder}; wait for its end, or end it"):
        train(config, folder)
    os.kill(process, signal.SIGKILL)
    ended(process)
    train(config, folder)


def _sleep(*args: object) -> None:
    time.sleep(60)


def test_a_run_that_is_killed_at_random_moments_ends_bit_for_bit_the_same(base, tmp_path):
    config = config_of("bert", "mlm", base, "budget.steps=60")
    begun = time.monotonic()
    start(tmp_path / "straight", config)
    length = time.monotonic() - begun
    chance, kills, runs = random.Random(6), 0, 0
    while kills < 4:
        folder = tmp_path / f"killed-{runs}"
        folder.mkdir()
        save_config(config, folder / "config.yaml")
        while kills < 4:
            process = attempt(folder, config)
            time.sleep(chance.uniform(0.05, 0.7) * length)
            os.kill(process, signal.SIGKILL)
            if ended(process) == 0:
                break
            kills += 1
        runs += 1
        assert ended(attempt(folder, config)) == 0
        assert_same(outcome(folder), outcome(tmp_path / "straight"))
