"""Every kind of damage to a store: found by checksum, named, and mended where the text is still there."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lmzoo.data import integrity
from lmzoo.data.config import DataConfig
from lmzoo.data.integrity import FORMAT, read_manifest, verify, write_manifest
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Store, StoreDamage, open_store
from lmzoo.errors import LmzooError
from preparing import SMALL, files_of, pausing, start, wait_for, wait_until, write_corpus


@pytest.fixture(scope="module", params=[1, 3], ids=["one shard", "three shards"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConfig, Store]:
    folder = tmp_path_factory.mktemp("made")
    data = replace(write_corpus(folder / "text", 3), shards=request.param)
    return data, prepare(data, SMALL, folder / "cache")


@pytest.fixture
def store(made: tuple[DataConfig, Store], tmp_path: Path) -> Path:
    """A copy that may be damaged; its cache is ``tmp_path``."""
    folder = tmp_path / "stores" / made[1].hash
    shutil.copytree(made[1].folder, folder)
    return folder


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGE = {
    "cut": (lambda content: content[:-1], "bytes instead of"),
    "empty": (lambda content: b"", "has 0 bytes instead of"),
    "one bit": (flipped, "has changed since it was written"),
    "one bit at the end": (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "has changed since"),
    "longer": (lambda content: content + b"\0", "bytes instead of"),
    "missing": (None, "is missing"),
}


def spoil(path: Path, kind: str) -> str:
    """Damage a file; gives what is to be said of it."""
    damage, words = DAMAGE[kind]
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    return words


def names_of(store: Path) -> list[str]:
    return sorted(name for name in files_of(store) if name != "store.json")


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_names_the_file(store: Path, kind: str) -> None:
    for name in names_of(store):
        path = store / name
        good = path.read_bytes()
        words = spoil(path, kind)
        with pytest.raises(StoreDamage) as caught:
            open_store(store)
        assert str(caught.value).startswith(f"the prepared corpus is damaged: {path} ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(good)
    open_store(store)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        (b"", "cannot be read"),
        (b'{"format": 2, "ha', "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"format": 99}', f"has format 99 where this version of lmzoo reads {FORMAT}"),
        (b'{"format": 1, "hash": "x"}', f"has format 1 where this version of lmzoo reads {FORMAT}"),
        (b"{}", "has format None where"),
        (b'{"format": 2}', "has changed since it was written"),
    ],
)
def test_a_manifest_that_is_none(store: Path, content: bytes | None, words: str) -> None:
    path = store / "store.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StoreDamage, match=words) as caught:
        open_store(store)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("left_out", ["hash", "content", "text_bytes", "tokens", "files", "tokenizer.json"])
def test_a_manifest_that_lacks_something(store: Path, left_out: str) -> None:
    manifest = read_manifest(store / "store.json")
    (manifest["files"] if left_out == "tokenizer.json" else manifest).pop(left_out)
    write_manifest(store / "store.json", manifest)
    with pytest.raises(StoreDamage, match=r"store\.json is incomplete"):
        open_store(store)


def test_no_bit_of_a_manifest_may_turn_over(store: Path) -> None:
    path = store / "store.json"
    good, expected = path.read_bytes(), read_manifest(path)
    random = np.random.default_rng(0)
    for place in random.integers(0, 8 * len(good), 400).tolist():
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        try:
            found = read_manifest(path)
        except StoreDamage:
            continue
        assert found == expected  # a bit that changed the spelling, such as 1e-05, and not the value


# ---------------------------------------------------------------------------------- mended


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_store_is_built_anew(
    tmp_path: Path, made: tuple[DataConfig, Store], store: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    data, good = made
    path = store / names_of(store)[-1]  # the offsets of the sentences, or tokens
    words = spoil(path, kind)
    mended = prepare(data, SMALL, tmp_path)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: the prepared corpus is damaged: {path} ")
    assert words in said
    assert said.endswith("; it is made anew\n")
    assert said.count("\n") == 1
    assert mended.content == good.content
    assert files_of(mended.folder) == files_of(good.folder)
    assert sorted(entry.name for entry in (tmp_path / "stores").iterdir()) == [
        good.hash,
        f"{good.hash}.locks",
    ]
    prepare(data, SMALL, tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [None, b'{"format": 99}'], ids=["no manifest", "another version"])
def test_a_store_that_says_nothing_of_itself_is_built_anew(
    tmp_path: Path, made: tuple[DataConfig, Store], store: Path, capsys, content: bytes | None
) -> None:
    data, good = made
    path = store / "store.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert files_of(prepare(data, SMALL, tmp_path).folder) == files_of(good.folder)
    assert f"{path} {'is missing' if content is None else 'has format 99'}" in capsys.readouterr().err


def test_a_store_under_another_s_name_is_not_taken(
    tmp_path: Path, made: tuple[DataConfig, Store], store: Path, capsys: pytest.CaptureFixture
) -> None:
    data, good = made
    other = prepare(replace(data, split_seed=1), SMALL, tmp_path)
    assert other.hash != good.hash
    shutil.rmtree(store)
    shutil.copytree(other.folder, store)
    assert prepare(data, SMALL, tmp_path).content == good.content
    assert f"holds another prepared corpus, {other.hash}; it is made anew" in capsys.readouterr().err


def test_without_its_text_a_damaged_store_is_left(
    tmp_path: Path, made: tuple[DataConfig, Store], store: Path
) -> None:
    spoil(store / "tokenizer.json", "one bit")
    before = files_of(store)
    data, _ = made
    text = Path(data.train).parent
    text.rename(text.with_name("away"))
    try:
        with pytest.raises(LmzooError, match=r"data\.train=.* matches no file"):
            prepare(data, SMALL, tmp_path)
    finally:
        text.with_name("away").rename(text)
    assert files_of(store) == before
    assert [entry.name for entry in (tmp_path / "stores").iterdir()] == [store.name]


def test_a_text_that_cannot_be_read_any_more_leaves_a_damaged_store(
    tmp_path: Path, made: tuple[DataConfig, Store], store: Path
) -> None:
    spoil(store / "tokenizer.json", "one bit")
    before = files_of(store)
    data, good = made
    text = Path(data.train).parent / "01.txt"
    content, stat = text.read_bytes(), text.stat()
    text.write_bytes(b"\xff" + content[1:])
    os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    try:
        with pytest.raises(LmzooError) as caught:
            prepare(data, SMALL, tmp_path)
    finally:
        text.write_bytes(content)
        os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert str(caught.value).startswith(
        f"the prepared corpus is damaged: {store / 'tokenizer.json'} has changed since it was written; "
        f"it cannot be made anew and is left as it is: {text}:1 is not UTF-8"
    )
    assert "\n" not in str(caught.value)
    assert files_of(store) == before
    assert not list((tmp_path / "stores").glob("*.building"))
    assert prepare(data, SMALL, tmp_path).content == good.content


def test_who_finds_the_damage_at_once_mends_it_once(
    tmp_path: Path, made: tuple[DataConfig, Store], store: Path
) -> None:
    data, good = made
    spoil(store / "tokenizer.json", "one bit")
    setup = partial(pausing, "lmzoo.data.prepare.make_tokenizer", tmp_path / "reached", tmp_path / "go")
    running = [start(tmp_path / f"run{number}", data, tmp_path, setup=setup) for number in range(3)]
    wait_until(lambda: sum("waiting for another process" in each.said for each in running) == 2)
    (tmp_path / "go").touch()
    assert [each.wait() for each in running] == [0] * 3
    assert (tmp_path / "reached").read_text().count("\n") == 1
    assert sum("it is made anew" in each.said for each in running) == 1
    assert files_of(store) == files_of(good.folder)


def test_a_kill_while_it_is_mended_loses_nothing(
    tmp_path: Path, made: tuple[DataConfig, Store], store: Path
) -> None:
    data, good = made
    spoil(store / "tokenizer.json", "one bit")
    setup = partial(pausing, "lmzoo.data.prepare.publish", tmp_path / "reached", tmp_path / "go")
    running = start(tmp_path / "run", data, tmp_path, setup=setup)
    wait_for(tmp_path / "reached")
    before = files_of(store)
    assert running.kill()
    assert files_of(store) == before
    assert files_of(prepare(data, SMALL, tmp_path).folder) == files_of(good.folder)


# ---------------------------------------------------------------------------------- large stores


class Read:
    """Which files `verify` reads in full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        plain = integrity.checksum

        def noted(path: Path, *rest: object) -> str:
            self.names.append(path.name)
            return plain(path, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(integrity, "checksum", noted)

    def take(self) -> list[str]:
        found, self.names = self.names, []
        return sorted(found)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict, Read]:
    """Six files of 100 bytes, of which an opening reads 250 bytes."""
    folder = tmp_path / "large"
    folder.mkdir()
    for name in "abcdef":
        (folder / name).write_bytes(name.encode() * 100)
    files = integrity.entries(folder, sorted(folder.iterdir()))
    monkeypatch.setattr(integrity, "CHECKED_BYTES", 250)
    return folder, files, Read(monkeypatch)


def test_a_small_store_is_read_at_every_opening(large, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files, read = large
    monkeypatch.setattr(integrity, "CHECKED_BYTES", 600)
    for _ in range(3):
        verify(folder, files)
        assert read.take() == list("abcdef")
    assert [path.name for path in folder.parent.iterdir()] == ["large"]


def test_a_large_store_is_read_once_and_then_in_turn(large) -> None:
    folder, files, read = large
    verify(folder, files)
    assert read.take() == list("abcdef")
    turns = []
    for _ in range(3):
        verify(folder, files)
        turns += read.take()
    assert sorted(turns) == list("abcdef")


def test_what_was_just_written_need_not_be_read(large) -> None:
    folder, files, read = large
    integrity.remember(folder, files)
    verify(folder, files)
    assert len(read.take()) == 2


def test_a_file_with_another_time_is_read_at_once(large) -> None:
    folder, files, read = large
    verify(folder, files)
    read.take()
    for name in "af":
        os.utime(folder / name, (1, 1))
    verify(folder, files)
    assert set("af") <= set(read.take())
    (folder / "d").write_bytes(b"d" * 99 + b"e")
    with pytest.raises(StoreDamage, match="d has changed since it was written"):
        verify(folder, files)


def test_a_bit_that_turns_over_unseen_is_found_in_the_end(large) -> None:
    folder, files, _ = large
    verify(folder, files)
    stat = (folder / "e").stat()
    (folder / "e").write_bytes(b"e" * 99 + b"d")
    os.utime(folder / "e", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found = []
    for _ in range(3):
        try:
            verify(folder, files)
        except StoreDamage as error:
            found.append(str(error))
    assert found
    assert all("large/e has changed since it was written" in line for line in found)


def test_a_file_larger_than_an_opening_reads_has_its_turn(large, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, files, read = large
    monkeypatch.setattr(integrity, "CHECKED_BYTES", 50)
    verify(folder, files)
    read.take()
    turns = []
    for _ in range(6):
        verify(folder, files)
        assert len(read.names) == 1
        turns += read.take()
    assert sorted(turns) == list("abcdef")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b'{"a": [1, "x", 2]}', b"\xff"])
def test_a_spoilt_memory_is_none(large, content: bytes) -> None:
    folder, files, read = large
    (folder.parent / "large.checked.json").write_bytes(content)
    verify(folder, files)
    assert read.take() == list("abcdef")
    assert set(json.loads((folder.parent / "large.checked.json").read_text())) == set("abcdef")


def test_a_cache_that_cannot_be_written_goes_without_memory(large) -> None:
    folder, files, read = large
    (folder.parent / "large.checked.json").mkdir()  # nothing can be put in its place
    for _ in range(2):
        verify(folder, files)
        assert read.take() == list("abcdef")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["large", "large.checked.json"]


def test_a_large_store_as_a_whole(
    tmp_path: Path, made: tuple[DataConfig, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, good = made
    monkeypatch.setattr(integrity, "CHECKED_BYTES", 1000)
    store = prepare(data, SMALL, tmp_path)
    assert store.content == good.content
    assert f"{store.hash}.checked.json" in {path.name for path in (tmp_path / "stores").iterdir()}
    read = Read(monkeypatch)
    prepare(data, SMALL, tmp_path)
    assert 1 <= len(read.take()) < 9
    spoil(store.folder / "train" / "sentences.npy", "one bit")
    assert files_of(prepare(data, SMALL, tmp_path).folder) == files_of(good.folder)
