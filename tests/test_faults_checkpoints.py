"""Checkpoints that are damaged, cut short or of another version, and writers that are killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch

from lmzoo import checkpoint_files, checkpoints, disk, progress
from lmzoo.checkpoint_files import Saved, WholeCheckpoints, read_checkpoint_file, write_checkpoint_file
from lmzoo.errors import LmzooError
from lmzoo.modules import LanguageModelModule
from lmzoo.training import train
from small_runs import assert_same, config_of, ended, fork, kill_at, outcome, start

CONTENT = {"a": torch.arange(5.0), "b": {"c": [1, "two", None]}}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("base")


@pytest.fixture
def written(tmp_path) -> Path:
    write_checkpoint_file(tmp_path / "last.ckpt", CONTENT)
    return tmp_path / "last.ckpt"


def assert_reads(path: Path, content: dict = CONTENT) -> None:
    read = read_checkpoint_file(path)
    assert_same(read, content)


def test_torch_itself_opens_a_checkpoint(written):
    assert_same(torch.load(written, weights_only=True), CONTENT)
    assert_reads(written)
    assert [path.name for path in written.parent.iterdir()] == ["last.ckpt"]


def test_every_flipped_bit_is_found(written):
    content = bytearray(written.read_bytes())
    for bit in range(len(content) * 8):
        content[bit // 8] ^= 1 << bit % 8
        written.write_bytes(content)
        with pytest.raises(LmzooError, match=re.escape(f"{written} is damaged")) as refusal:
            read_checkpoint_file(written)
        assert "\n" not in str(refusal.value)
        content[bit // 8] ^= 1 << bit % 8
    written.write_bytes(content)
    assert_reads(written)


def test_every_cut_is_found(written):
    content = written.read_bytes()
    for length in range(len(content)):
        written.write_bytes(content[:length])
        with pytest.raises(LmzooError, match=re.escape(f"{written} is damaged")):
            read_checkpoint_file(written)
    written.unlink()
    with pytest.raises(LmzooError, match=re.escape(f"{written} is not there")):
        read_checkpoint_file(written)


def test_a_file_of_torch_itself_is_read_and_its_flipped_bits_are_found_too(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(CONTENT, path)
    assert_reads(path)
    content = bytearray(path.read_bytes())
    content[content.index(CONTENT["a"].numpy().tobytes()) + 3] ^= 4
    path.write_bytes(content)
    with pytest.raises(LmzooError, match=re.escape(f"{path} is damaged")):
        read_checkpoint_file(path)


def test_the_one_before_is_kept_but_never_a_damaged_one(tmp_path):
    folder = tmp_path / "checkpoints"
    writer = WholeCheckpoints()
    for step in range(1, 4):
        writer.save_checkpoint({"step": step}, folder / "last.ckpt")
        writer.save_checkpoint({"step": -step}, folder / "best.ckpt")
    assert read_checkpoint_file(folder / "last.ckpt") == {"step": 3}
    assert read_checkpoint_file(folder / "previous.ckpt") == {"step": 2}
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    (folder / "last.ckpt").write_bytes(b"damaged")
    writer = WholeCheckpoints(keep_last=False)
    writer.save_checkpoint({"step": 4}, folder / "last.ckpt")
    assert read_checkpoint_file(folder / "previous.ckpt") == {"step": 2}
    writer.save_checkpoint({"step": 5}, folder / "last.ckpt")
    assert read_checkpoint_file(folder / "previous.ckpt") == {"step": 4}


def test_the_one_before_is_kept_on_a_disk_without_links_too(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    writer = WholeCheckpoints()
    for step in (1, 2, 3):
        writer.save_checkpoint({"step": step}, tmp_path / "last.ckpt")
    assert read_checkpoint_file(tmp_path / "previous.ckpt") == {"step": 2}
    assert read_checkpoint_file(tmp_path / "last.ckpt") == {"step": 3}


def test_a_file_takes_the_place_of_a_folder_of_shards_whatever_came_before(tmp_path):
    """As where a run of one process went on by FSDP, and goes on in one process again."""
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for before in ("a file", "a folder", "nothing"):
        for path in (last, previous):
            disk.remove(path)
        last.mkdir()
        (last / "shard").touch()
        if before == "a folder":
            previous.mkdir()
        elif before == "a file":
            previous.touch()
        WholeCheckpoints().save_checkpoint({"step": 2}, last)
        assert read_checkpoint_file(last) == {"step": 2}
        assert [path.name for path in previous.iterdir()] == ["shard"]
        WholeCheckpoints().save_checkpoint({"step": 3}, last)
        assert read_checkpoint_file(previous) == {"step": 2}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_what_was_read_is_handed_on_once(written):
    saved = Saved(written, read_checkpoint_file(written))
    reader = WholeCheckpoints(saved)
    content = saved.content
    assert reader.load_checkpoint(str(written)) is content
    assert saved.content == {}
    assert_same(reader.load_checkpoint(str(written)), CONTENT)


KILLS = [
    *((checkpoint_files._Hashed, "write", call) for call in (1, 3, 9)),
    (checkpoint_files._Hashed, "finish", 1),
    (os, "fsync", 1),
    (os, "link", 1),
    *((os, "replace", call) for call in (1, 2)),
    (os, "fsync", 2),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name", "call"), KILLS, ids=[f"{name}-{call}" for _, name, call in KILLS])
def test_a_killed_writer_leaves_the_last_good_checkpoint(owner, name, call, after, tmp_path):
    last, previous = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "previous.ckpt"
    writer = WholeCheckpoints()
    for step in (1, 2):
        writer.save_checkpoint({"step": step}, last)

    def work() -> None:
        kill_at(owner, name, call, after)
        writer.save_checkpoint({"step": 3}, last)

    assert ended(fork(work)) == -signal.SIGKILL
    steps = read_checkpoint_file(last)["step"], read_checkpoint_file(previous)["step"]
    assert steps in [(2, 1), (2, 2), (3, 2)]
    disk.remove_leftovers(tmp_path)
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


# ---------------------------------------------------------------------------------- in a run


class Broken(Exception):
    """What a run is interrupted with; no part of lmzoo knows it."""


@pytest.fixture(scope="module")
def straight(base) -> dict:
    start(base / "straight", config_of("bert", "mlm", base))
    return outcome(base / "straight")


@pytest.fixture
def stopped(base, tmp_path, monkeypatch, straight) -> Path:
    """The folder of a run that broke in its tenth step: last.ckpt is of step 9, previous.ckpt of step 6."""
    whole = LanguageModelModule.training_step

    def breaking(module, batch, batch_idx):
        if module.ledger.steps == 9:
            raise Broken
        whole(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelModule, "training_step", breaking)
        with pytest.raises(Broken):
            start(tmp_path / "run", config_of("bert", "mlm", base))
    return tmp_path / "run"


def damage(path: Path, how: str) -> str:
    """Spoil a checkpoint; gives what must be said of it."""
    content = bytearray(path.read_bytes())
    match how:
        case "flipped":
            content[len(content) // 3] ^= 16
            path.write_bytes(content)
            return "is damaged (its checksum does not fit)"
        case "cut":
            path.write_bytes(content[: len(content) // 2])
            return "is damaged (it is cut short"
        case "empty":
            path.write_bytes(b"")
            return "is damaged (it is cut short"
        case "version":
            saved = torch.load(path, weights_only=True)
            saved["lmzoo"]["format"] = checkpoints.FORMAT + 1
            write_checkpoint_file(path, saved)
            return "is of another version of lmzoo"
        case "other":
            write_checkpoint_file(path, {"a": 1})
            return "is no checkpoint of this version"
        case _:
            path.unlink()
            return "is not there"


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "version", "other", "missing"])
def test_a_run_goes_on_from_the_one_before_a_damaged_checkpoint(how, stopped, base, straight):
    last = stopped / "checkpoints" / "last.ckpt"
    told = damage(last, how)
    with progress.console.capture() as said:
        train(config_of("bert", "mlm", base), stopped, resuming=True)
    (line,) = said.get().splitlines()
    assert line.startswith(f"warning: {last} {told}")
    assert line.endswith("going on from the one before, previous.ckpt, of step 6")
    assert_same(outcome(stopped), straight)


def test_without_damage_nothing_is_said_and_the_end_is_the_same(stopped, base, straight):
    with progress.console.capture() as said:
        train(config_of("bert", "mlm", base), stopped, resuming=True)
    assert said.get() == ""
    assert_same(outcome(stopped), straight)
    assert "checkpoints/previous.ckpt" not in straight["files"]


def test_two_damaged_checkpoints_are_refused_by_name(stopped, base):
    told = [damage(stopped / "checkpoints" / f"{name}.ckpt", "flipped") for name in ("last", "previous")]
    before = sorted(stopped.rglob("*"))
    with pytest.raises(LmzooError) as refusal:
        train(config_of("bert", "mlm", base), stopped, resuming=True)
    line = str(refusal.value)
    for name, reason in zip(("last", "previous"), told, strict=True):
        assert f"checkpoints/{name}.ckpt {reason}" in line
    assert line.endswith("start the run again, or from a copy")
    assert "\n" not in line
    assert sorted(stopped.rglob("*")) == before
