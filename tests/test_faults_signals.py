"""SIGTERM, Ctrl-C and SLURM's SIGUSR1: the step is finished and saved, and the run goes on where it stood."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmzoo import cli, signals
from lmzoo import train as command
from lmzoo.checkpoint_files import read_checkpoint_file
from lmzoo.modules import LanguageModelModule
from small_runs import (
    FAMILIES,
    arguments,
    assert_same,
    checkpoint,
    config_of,
    ended,
    fork,
    outcome,
    start,
    until,
)
from test_logs import offline_folders, records

STATUS = {signal.SIGINT: 130, signal.SIGUSR1: 138, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def straight(base):
    """What an undisturbed run of a family leaves; each is made once."""
    made: dict[tuple[str, str], dict] = {}

    def of(family: str, objective: str) -> dict:
        if (family, objective) not in made:
            folder = base / f"straight-{family}-{objective}"
            start(folder, config_of(family, objective, base))
            made[family, objective] = outcome(folder)
        return made[family, objective]

    return of


def rows(folder: Path) -> int:
    """Whole rows of the run's history, without the names of the columns."""
    path = folder / "history.csv"
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


def slowly(seconds: float, first: int = 1) -> None:
    """Make training steps of this process take longer: the signals of a test are to find it at work."""
    whole = LanguageModelModule.training_step

    def step(module, batch, batch_idx):
        whole(module, batch, batch_idx)
        time.sleep(seconds if module.ledger.steps >= first else 0)

    LanguageModelModule.training_step = step


def running(argv: list[str], said: Path, seconds: float = 0.0) -> int:
    """Start the command in a process of its own, with so many seconds more a step."""

    def work() -> None:
        if seconds:
            slowly(seconds)
        cli.run(command.job, argv)

    return fork(work, said)


def resumed(folder: Path, said: Path) -> dict:
    """Go on to the end; gives what came of it."""
    assert ended(running([f"resume={folder}"], said)) == 0, said.read_text()
    return outcome(folder)


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
@pytest.mark.parametrize(("family", "objective"), FAMILIES[1:3])
def test_a_signal_ends_after_the_step_with_a_checkpoint(family, objective, number, base, straight, tmp_path):
    expected = straight(family, objective)  # and the store is there
    folder, said = tmp_path / "run", tmp_path / "said"
    argv = arguments(family, objective, base, f"hydra.run.dir={folder}")
    process = running(argv, said, seconds=0.03)
    until(lambda: rows(folder) >= 5, process)
    os.kill(process, number)
    assert ended(process) == STATUS[number]
    step = checkpoint(folder)["ledger"]["steps"]
    assert 5 <= step < 14
    with (folder / "history.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, step + 1))
    what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    told = said.read_text().splitlines()
    assert told == [
        f"{number.name}: finishing the step, then a checkpoint; Ctrl-C now ends at once",
        f"error: {what} after step {step}; go on with: python -m lmzoo.train resume={folder}",
    ]
    assert_same(resumed(folder, said), expected)


def test_ctrl_c_in_a_validation_takes_it_first(base, straight, tmp_path):
    expected = straight("bert", "mlm")
    folder, said, reached = tmp_path / "run", tmp_path / "said", tmp_path / "reached"
    whole = LanguageModelModule.validation_step

    def validation_step(module, batch, batch_idx):
        if module.ledger.steps == 8:
            reached.touch()
            time.sleep(0.3)
        whole(module, batch, batch_idx)

    def work() -> None:
        LanguageModelModule.validation_step = validation_step
        slowly(0.3, first=9)
        cli.run(command.job, arguments("bert", "mlm", base, f"hydra.run.dir={folder}"))

    process = fork(work, said)
    until(reached.exists, process)
    os.kill(process, signal.SIGINT)
    assert ended(process) == 130
    assert checkpoint(folder)["ledger"]["steps"] == 9  # the step after it had seen the signal
    assert_same(resumed(folder, said), expected)


def test_a_second_ctrl_c_ends_at_once(base, straight, tmp_path):
    straight("bert", "mlm")
    folder, said = tmp_path / "run", tmp_path / "said"
    process = running(arguments("bert", "mlm", base, f"hydra.run.dir={folder}"), said, seconds=5.0)
    # the first step has been logged, and the process sleeps in it
    until(lambda: rows(folder) >= 1, process)
    os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGINT)  # what a launcher hands on is no second one
    time.sleep(signals.SECONDS_OF_ONE_REQUEST + 0.2)
    begun = time.monotonic()
    os.kill(process, signal.SIGINT)
    assert ended(process) == 130
    assert time.monotonic() - begun < 1
    assert said.read_text().splitlines()[-1].startswith("error: interrupted at once; go on with: ")
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert_same(resumed(folder, said), straight("bert", "mlm"))  # from the beginning


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_while_the_corpus_is_prepared_ends_at_once_and_leaves_nothing(number, tmp_path, base):
    folder, said, stores = tmp_path / "run", tmp_path / "said", tmp_path / "cache" / "stores"
    given = [f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={folder}"]
    process = running(arguments("bert", "mlm", base, *given), said)
    until(lambda: list(stores.glob("*.building")), process)
    os.kill(process, number)
    assert ended(process) == STATUS[number]
    what = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert said.read_text() == f"error: {what}\n"
    assert not folder.exists()
    assert not [path for path in stores.iterdir() if path.is_dir() and path.suffix != ".locks"]


def test_a_signal_after_training_ends_at_once_and_the_figures_are_taken_later(base, straight, tmp_path):
    expected = straight("gpt", "clm")
    folder, said = tmp_path / "run", tmp_path / "said"
    whole = LanguageModelModule.validation_step

    def validation_step(module, batch, batch_idx):
        if module.trainer.state.fn == "validate":
            time.sleep(30)
        whole(module, batch, batch_idx)

    def work() -> None:
        LanguageModelModule.validation_step = validation_step
        cli.run(command.job, arguments("gpt", "clm", base, f"hydra.run.dir={folder}"))

    process = fork(work, said)
    until((folder / "checkpoints" / "previous.ckpt").exists, process)
    until(lambda: rows(folder) == 14 and _is_done(folder), process)
    time.sleep(0.3)
    os.kill(process, signal.SIGTERM)
    assert ended(process) == 143
    assert not (folder / "metrics.json").exists()
    assert said.read_text().startswith("error: ended by SIGTERM; go on with: ")
    assert_same(resumed(folder, said), expected)


def _is_done(folder: Path) -> bool:
    return read_checkpoint_file(folder / "checkpoints" / "last.ckpt")["ledger"]["steps"] == 14


# ---------------------------------------------------------------------------------- SLURM


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_slurm_is_asked_to_start_the_job_again(array, fails, tmp_path, monkeypatch):
    """With a stand-in for SLURM's command, which is not here."""
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\n' + ("echo no such job >&2\nexit 1\n" if fails else "")
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    job = "16_2" if array else "17"
    assert signals.requeue(signals.Stopped(signal.SIGTERM)) == ""
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert signals.requeue(signals.Stopped(signal.SIGUSR1)) == ""
    assert not asked.exists()
    monkeypatch.setenv("SLURM_PROCID", "0")
    told = signals.requeue(signals.Stopped(signal.SIGUSR1, 7))
    assert asked.read_text() == f"requeue {job}\n"
    assert told == (
        f"; scontrol requeue {job} failed: no such job" if fails else f"; SLURM starts job {job} again"
    )


def test_outside_slurm_nothing_is_asked_and_without_its_command_it_is_said(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert signals.requeue(signals.Stopped(signal.SIGUSR1)) == ""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "scontrol requeue 17 failed" in signals.requeue(signals.Stopped(signal.SIGUSR1))


# ---------------------------------------------------------------------------------- the handlers


def test_a_signal_that_is_ignored_stays_ignored_and_others_come_back(tmp_path):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        term = signal.getsignal(signal.SIGTERM)
        with signals.watched(tmp_path):
            assert signal.getsignal(signal.SIGTERM) is signals._handle
            signal.raise_signal(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGTERM) == term
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signals.received() == 0


def test_a_held_signal_is_raised_when_it_is_let_go(tmp_path, capfd):
    with signals.watched(tmp_path):
        signals.hold()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # as often as it comes
        assert signals.received() == signal.SIGTERM
        with pytest.raises(signals.Stopped) as stop:
            signals.release(12)
    assert (str(stop.value), stop.value.status) == ("ended by SIGTERM after step 12", 143)
    assert capfd.readouterr().err.count("\n") == 1
    with signals.watched(tmp_path, raises=False):  # a rank that another one ends
        signal.raise_signal(signal.SIGTERM)
        assert signals.received() == signal.SIGTERM


# ---------------------------------------------------------------------------------- W&B and two processes


def test_wandb_keeps_the_rows_and_is_told_that_the_machine_was_taken(base, straight, tmp_path):
    straight("bert", "mlm")
    folder = tmp_path / "run"
    given = ["logger=wandb", "logger.mode=offline", "budget.steps=4000", f"hydra.run.dir={folder}"]
    process = _command(*arguments("bert", "mlm", base, *given))
    until(lambda: rows(folder) >= 20, seconds=120)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    step = checkpoint(folder)["ledger"]["steps"]
    (offline,) = offline_folders(folder)
    found = records(offline)
    steps = [row["item"]["trainer/global_step"] for row in found["history"] if "train/loss" in row["item"]]
    assert steps == list(range(1, step + 1))
    assert [end["exit_code"] for end in found["exit"]] == [143]
    assert "preempting" in found


def _command(*given: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "lmzoo.train", *given],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["rank 0", "all"])
@pytest.mark.parametrize(("family", "objective"), [FAMILIES[0], FAMILIES[3]])
def test_two_processes_stop_after_the_same_step(family, objective, whom, base, tmp_path):
    settings = ["hardware=ddp", "hardware.accelerator=cpu", "hardware.micro_batch=2", "budget.steps=60"]
    ends = {}
    for name in ("straight", "stopped"):
        folder = ends[name] = tmp_path / name
        process = _command(*arguments(family, objective, base, *settings, f"hydra.run.dir={folder}"))
        if name == "stopped":
            until(lambda: rows(folder) >= 10, seconds=120)  # noqa: B023
            number = signal.SIGINT if whom == "all" else signal.SIGTERM
            for child in [process.pid, *(_children(process.pid) if whom == "all" else [])]:
                os.kill(child, number)
            _, error = process.communicate(timeout=60)
            assert process.returncode == STATUS[number], error
            assert "Traceback" not in error
            assert checkpoint(folder)["ledger"]["steps"] < 60
            process = _command(f"resume={folder}")
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert_same(outcome(ends["stopped"]), outcome(ends["straight"]))


def _children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    named = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return [child for child, line in named.items() if b"lmzoo.train" in line]
