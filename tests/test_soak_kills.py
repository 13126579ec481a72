"""Many kills at random moments; at the end a table of what was killed, when, and how often."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmzoo import checkpoint_files, cli, training
from lmzoo import train as command
from lmzoo.checkpoint_files import read_checkpoint_file
from lmzoo.modules import LanguageModelModule
from small_runs import FAMILIES, arguments, assert_same, ended, fork, history, outcome, until

pytestmark = pytest.mark.soak

STAGES = (
    *("starting", "preparing", "in a step", "writing a checkpoint", "in a validation"),
    *("in the last validation", "exporting"),
)
SETTINGS = ["budget.steps=90", "checkpoint.every_steps=7", "valid.every_steps=10"]
TWO = ["hardware=ddp", "hardware.accelerator=cpu", "hardware.micro_batch=2"]
KILLS = {1: 14, 2: 5}
"""Of every family, by the number of processes."""
counted: Counter[tuple[str, str, str]] = Counter()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module", autouse=True)
def table(request) -> Iterator[None]:
    yield
    lines = ["", f"{'run':<16}{'killed':<16}{'stage':<24}times"]
    lines += [f"{run:<16}{who:<16}{stage:<24}{times}" for (run, who, stage), times in sorted(counted.items())]
    lines.append(f"{'':<56}{sum(counted.values())}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines), flush=True)


class Staged:
    """Where a process that was started here is: a byte of memory that it shares with this one."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def __str__(self) -> str:
        return STAGES[self._byte[0]]

    def within(self, owner: Any, name: str, stage: str, if_fitting: bool | None = None) -> None:
        """Have a function of the process say where it is."""
        whole = getattr(owner, name)

        def told(*given: Any, **named: Any) -> Any:
            before = self._byte[0]
            if if_fitting is None or if_fitting == (given[0].trainer.state.fn == "fit"):
                self._byte[0] = STAGES.index(stage)
            try:
                return whole(*given, **named)
            finally:
                self._byte[0] = before

        setattr(owner, name, told)

    def watch(self) -> None:
        """Called in the process itself."""
        self._byte[0] = 0
        self.within(training, "prepare", "preparing")
        self.within(LanguageModelModule, "training_step", "in a step")
        self.within(checkpoint_files, "write_checkpoint_file", "writing a checkpoint")
        self.within(LanguageModelModule, "validation_step", "in a validation", if_fitting=True)
        self.within(LanguageModelModule, "validation_step", "in the last validation", if_fitting=False)
        self.within(training, "export_model", "exporting")


def begin(folder: Path, argv: list[str], staged: Staged, said: Path) -> int:
    """Start the command, or go on with its run, in a process of its own."""

    def work() -> None:
        staged.watch()
        there = (folder / "config.yaml").exists()
        cli.run(command.job, [f"resume={folder}"] if there else [*argv, f"hydra.run.dir={folder}"])

    return fork(work, said)


def children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:
        return []


def gone(processes: list[int]) -> bool:
    return not any(Path(f"/proc/{process}").exists() for process in processes)


def moment(chance: random.Random, folder: Path, length: float) -> None:
    """Wait for the moment of a kill: any moment, or one in which a checkpoint is being written."""
    deadline = time.monotonic() + chance.uniform(0.05, 1.0) * length
    writing = chance.random() < 0.35
    while time.monotonic() < deadline:
        time.sleep(0.001)
    while writing and not list(folder.glob("checkpoints/.*.new")) and time.monotonic() < deadline + length:
        pass


@pytest.mark.parametrize("processes", KILLS)
@pytest.mark.parametrize(("family", "objective"), FAMILIES)
def test_killed_runs_end_bit_for_bit_as_undisturbed_ones(family, objective, processes, base, tmp_path):
    argv = arguments(family, objective, base, *SETTINGS, *(TWO if processes == 2 else []))
    name, chance, staged = f"{objective} x{processes}", random.Random(f"{objective}{processes}"), Staged()
    said = tmp_path / "said"
    begun = time.monotonic()
    assert ended(begin(tmp_path / "straight", argv, staged, said)) == 0, said.read_text()
    length = time.monotonic() - begun
    expected = outcome(tmp_path / "straight")
    kills = runs = 0
    while kills < KILLS[processes]:
        folder = tmp_path / f"run-{runs}"
        shutil.rmtree(base / "cache", ignore_errors=True)  # so that preparing can be killed too
        runs += 1
        while True:
            process = begin(folder, argv, staged, said)
            if kills >= KILLS[processes]:
                assert ended(process) == 0, said.read_text()
                break
            moment(chance, folder, length)
            others = children(process)
            whom = chance.choice(["rank 0", "rank 1", "both"]) if others and processes == 2 else "the process"
            stage = str(staged)
            for one in {"rank 1": others[:1], "both": [process, *others]}.get(whom, [process]):
                os.kill(one, signal.SIGKILL)
            status = ended(process)
            until(lambda: gone(others), seconds=90)  # noqa: B023
            if status == 0:
                break
            assert status == -signal.SIGKILL or whom == "rank 1", said.read_text()
            kills += 1
            counted[name, whom, stage] += 1
            check_history(folder)
        assert_same(outcome(folder), expected)


def check_history(folder: Path) -> None:
    """Rows up to the last checkpoint are there, each once."""
    if cli.has_checkpoint(folder):
        steps = read_checkpoint_file(folder / "checkpoints" / "last.ckpt")["ledger"]["steps"]
        numbers = [int(row["step"]) for row in history(folder)]
        assert numbers[:steps] == list(range(1, steps + 1))
        assert len(set(numbers)) == len(numbers)
