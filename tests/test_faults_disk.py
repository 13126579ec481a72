"""Disks that are full, read-only or forbidden: said at once where it can be, and nothing good is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hydra
import pytest

from lmzoo import cli, disk, progress
from lmzoo import train as command
from lmzoo.checkpoint_files import read_checkpoint_file
from lmzoo.data.prepare import prepare
from lmzoo.errors import LmzooError
from lmzoo.logs import HistoryLogger
from lmzoo.modules import LanguageModelModule
from lmzoo.training import train
from small_runs import arguments, assert_same, config_of, ended, fork, kill_at, outcome, start


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def straight(base) -> dict:
    start(base / "straight", config_of("bert", "mlm", base))
    return outcome(base / "straight")


def mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of four megabytes, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def read_only(small_disk):
    """Make the disk read-only, as it is."""
    return lambda: mount("-o", "remount,ro", str(small_disk))


def fill(folder: Path, leave: int = 0) -> Path:
    """Take all room but so many bytes with one file."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
        file.truncate(max(file.tell() - leave, 0))
    return filler


def refusal(*argv: str) -> str:
    """The one line with which a command is refused."""
    arguments, _ = cli._parse(list(argv))
    with pytest.raises(LmzooError) as refused:
        cli._run_or_sweep(command.job, None, [], arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---------------------------------------------------------------------------------- known before


def test_too_little_room_is_refused_before_the_first_step(base, small_disk):
    given = ["model.hidden_size=128", f"hydra.run.dir={small_disk / 'run'}"]
    line = refusal(*arguments("bert", "mlm", base, *given))
    assert line.startswith(f"{small_disk / 'run'} is on a disk with 4.19 MB free, and the run needs ")
    assert "make room, or choose another hydra.run.dir=" in line
    assert list(small_disk.iterdir()) == []


def test_room_for_log_spaced_exports_is_asked_for_too(base, small_disk):
    given = ["model.hidden_size=64", f"hydra.run.dir={small_disk / 'run'}", "checkpoint.log_spaced=40"]
    line = refusal(*arguments("bert", "mlm", base, *given))
    assert "and 41 exports; make room, or choose another hydra.run.dir=" in line
    assert list(small_disk.iterdir()) == []


def test_a_run_that_goes_on_needs_no_more_room_than_it_has_taken(base, small_disk):
    folder = small_disk / "run"
    start(folder, config_of("bert", "mlm", base))
    fill(small_disk, leave=200_000)
    disk.refuse_without_room(folder, 10_000)
    with pytest.raises(LmzooError, match="the run needs"):
        disk.refuse_without_room(small_disk, 100_000)


def test_a_limit_on_the_size_of_files_is_refused_before_the_first_step(base, straight, tmp_path):
    said = tmp_path / "said"

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, resource.RLIM_INFINITY))
        cli.run(command.job, arguments("bert", "mlm", base, f"hydra.run.dir={tmp_path / 'run'}"))

    assert ended(fork(work, said)) == 1
    (line,) = said.read_text().splitlines()
    assert line.startswith("error: files may have 80 kB here (ulimit -f), and a checkpoint of this run has ")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_the_way_and_a_read_only_disk_are_refused_at_once(base, small_disk, read_only, tmp_path):
    (tmp_path / "file").touch()
    line = refusal(*arguments("bert", "mlm", base, f"hydra.run.dir={tmp_path / 'file' / 'run'}"))
    assert line.startswith("the run folder cannot be made (Not a directory: ")
    (small_disk / "mine").mkdir()
    read_only()
    for run, what in (("mine", "cannot be written to"), ("new", "the run folder cannot be made")):
        line = refusal(*arguments("bert", "mlm", base, f"hydra.run.dir={small_disk / run}"))
        assert what in line
        assert "Read-only file system" in line
    assert not (base / "never").exists()


def test_a_run_on_a_disk_that_became_read_only_is_refused_before_the_corpus_is_read(
    base, small_disk, read_only, tmp_path, monkeypatch
):
    folder = small_disk / "run"
    start(folder, config_of("bert", "mlm", base))
    before = outcome(folder)
    read_only()
    config = config_of("bert", "mlm", base, f"cache_dir={tmp_path / 'cache'}")
    with pytest.raises(LmzooError, match=r"Read-only file system; mount it for writing.* resume="):
        train(config, folder, resuming=True)
    assert not (tmp_path / "cache").exists()
    assert_same(outcome(folder), before)


def test_a_folder_without_permission_is_refused_at_once(base, straight, tmp_path):
    installed = Path(hydra.__file__)
    if os.getuid() == 0 and not all(path.stat().st_mode & 0o005 == 0o005 for path in installed.parents):
        pytest.skip("another user than root, whom permissions bind, cannot read the environment here")
    folder = tmp_path / "run"
    folder.mkdir(mode=0o500)

    def work() -> None:
        if os.getuid() == 0:  # permissions do not bind root
            for path in {*tmp_path.parents, *base.parents, tmp_path, base}:
                path.chmod(path.stat().st_mode | 0o055)
            shutil.chown(folder, 65534)
            os.setuid(65534)
        cli.run(command.job, arguments("bert", "mlm", base, f"hydra.run.dir={folder}"))

    assert ended(fork(work, tmp_path / "said")) == 1
    line = (tmp_path / "said").read_text()
    assert line == f"error: {folder} cannot be written to (Permission denied); give another hydra.run.dir=\n"


# ---------------------------------------------------------------------------------- the cache


def test_a_store_in_a_read_only_cache_is_used_and_none_can_be_built_there(base, small_disk, read_only):
    given = [f"cache_dir={small_disk / 'cache'}", f"hydra.run.dir={base / 'from-cache'}"]
    config = config_of("bert", "mlm", base, given[0])
    prepare(config.data, config.tokenizer, small_disk / "cache")
    read_only()
    start(base / "read-only-cache", config)
    line = refusal(*arguments("bert", "mlm", base, *given, "tokenizer.vocab_size=302"))
    assert "the corpus cannot be prepared in" in line
    assert "Read-only file system" in line
    assert not (base / "from-cache").exists()


def test_a_full_disk_while_the_corpus_is_prepared_leaves_nothing(base, small_disk):
    (small_disk / "cache").mkdir()
    fill(small_disk, leave=30_000)
    given = [f"cache_dir={small_disk / 'cache'}", f"hydra.run.dir={base / 'full-cache'}"]
    line = refusal(*arguments("bert", "mlm", base, *given))
    assert "the corpus cannot be prepared in" in line
    assert "No space left on device" in line
    there = (small_disk / "cache" / "stores").iterdir()
    assert not [path for path in there if path.is_dir() and path.suffix != ".locks"]
    assert not (base / "full-cache").exists()


# ---------------------------------------------------------------------------------- in the middle of a run


@pytest.mark.parametrize("leave", [0, 60_000], ids=["no room at all", "room for rows, none for a checkpoint"])
def test_a_disk_that_fills_up_ends_the_run_and_it_goes_on_when_there_is_room(
    leave, base, straight, small_disk, monkeypatch
):
    folder = small_disk / "run"
    whole = LanguageModelModule.training_step

    def step(module, batch, batch_idx):
        if module.ledger.steps == 7:
            fill(small_disk, leave)
        whole(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", step)
        with pytest.raises(LmzooError) as refused:
            start(folder, config_of("bert", "mlm", base))
    line = str(refused.value)
    assert "No space left on device; make room there, then go on with: python -m lmzoo.train resume=" in line
    assert "\n" not in line
    checkpoints = folder / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert read_checkpoint_file(checkpoints / "last.ckpt")["ledger"]["steps"] == 6
    (small_disk / "filler").unlink()
    with progress.console.capture() as said:
        train(config_of("bert", "mlm", base), folder, resuming=True)
    assert said.get() == ""
    assert_same(outcome(folder), straight)


def test_a_full_disk_takes_no_row_that_was_there(small_disk):
    logger = HistoryLogger(small_disk)
    for step in range(1, 200):
        logger.log_metrics({"train/loss": 1 / step, "valid/loss": 0.0}, step)
    before = (small_disk / "history.csv").read_bytes()
    fill(small_disk)
    refused, step = False, 200
    while not refused:  # until the file's last page is full
        with suppress(OSError):
            before, refused = (small_disk / "history.csv").read_bytes(), True
            logger.log_metrics({"train/loss": 0.123456789}, step)
            logger.log_metrics({"valid/loss": 0.123456789}, step)  # the row is written over
            refused, step = False, step + 1
    assert 200 < step < 400
    assert (small_disk / "history.csv").read_bytes().startswith(before)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_row_that_is_added_to_survives_a_kill(after, tmp_path):
    logger = HistoryLogger(tmp_path)
    logger.log_metrics({"a": 1.0, "b": 2.0}, 1)
    logger.log_metrics({"a": 3.0}, 2)
    before = (tmp_path / "history.csv").read_text()
    for name in ("pwrite", "posix_fallocate"):

        def work(name=name) -> None:
            kill_at(os, name, 1, after)
            logger.log_metrics({"b": 4.0}, 2)

        assert ended(fork(work)) == -signal.SIGKILL
        assert HistoryLogger(tmp_path, resume_step=2)._read() == [
            {"step": "1", "a": "1", "b": "2"},
            {"step": "2", "a": "3", "b": "4" if after and name == "pwrite" else ""},
        ]
        (tmp_path / "history.csv").write_text(before)
