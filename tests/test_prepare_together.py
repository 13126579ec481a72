"""Preparations that meet, are killed, or cannot write: the same bytes as undisturbed, or one line that says
why not; never a store that is not whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lmzoo.data import prepare as room
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Store, open_store
from lmzoo.errors import LmzooError
from preparing import (
    SMALL,
    Preparation,
    files_of,
    limited,
    pausing,
    same,
    start,
    unprivileged,
    wait_for,
    wait_until,
    write_corpus,
)


@pytest.fixture(scope="module", params=[1, 4], ids=["one shard", "four shards"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DataConfig, Store]:
    folder = tmp_path_factory.mktemp("undisturbed")
    data = replace(write_corpus(folder / "text", 4), shards=request.param)
    return data, prepare(data, SMALL, folder / "cache")


def store_in(cache: Path, store: Store) -> Path:
    return cache / "stores" / store.hash


# ---------------------------------------------------------------------------------- several at once


@pytest.mark.parametrize("count", [2, 8])
def test_one_builds_and_the_rest_wait(
    tmp_path: Path, undisturbed: tuple[DataConfig, Store], count: int
) -> None:
    data, whole = undisturbed
    cache = tmp_path / "cache"
    setup = partial(pausing, "lmzoo.data.prepare.make_tokenizer", tmp_path / "built", tmp_path / "go")
    running = [start(tmp_path / f"{number}", data, cache, setup=setup) for number in range(count)]
    waiting = "waiting for another process that is preparing the same corpus …\n"
    wait_until(lambda: sum(each.said == waiting for each in running) == count - 1)
    (tmp_path / "go").touch()
    assert [each.wait() for each in running] == [0] * count
    assert (tmp_path / "built").read_text().count("\n") == 1
    assert all(each.outcome == {"hash": whole.hash, "content": whole.content} for each in running)
    assert files_of(store_in(cache, whole)) == files_of(whole.folder)


STAGES = {
    "before the tokenizer": "lmzoo.data.prepare.make_tokenizer",
    "before it is saved": "lmzoo.data.building.write_manifest",
    "before the first shard": "lmzoo.data.building.encode",
    "before the index": "lmzoo.data.prepare.join_shards",
    "before the renaming": "lmzoo.data.prepare.publish",
    "after it": "lmzoo.data.index.remember",
}


@pytest.mark.parametrize("stage", STAGES)
def test_one_that_dies_lets_the_next_go_on(
    tmp_path: Path, undisturbed: tuple[DataConfig, Store], stage: str
) -> None:
    data, whole = undisturbed
    cache = tmp_path / "cache"
    setup = partial(pausing, STAGES[stage], tmp_path / "reached", tmp_path / "go")
    first = start(tmp_path / "first", data, cache, setup=setup)
    wait_for(tmp_path / "reached")
    second = start(tmp_path / "second", data, cache)
    if stage != "after it":  # the store is there, whether or not who made it has gone home
        wait_until(lambda: "waiting for another process" in second.said)
    assert first.kill()
    assert second.wait() == 0
    assert second.outcome == {"hash": whole.hash, "content": whole.content}
    assert files_of(store_in(cache, whole)) == files_of(whole.folder)
    assert not list((cache / "stores").glob("*.building"))


def test_a_builder_of_one_store_leaves_another_s_alone(
    tmp_path: Path, undisturbed: tuple[DataConfig, Store]
) -> None:
    data, whole = undisturbed
    cache = tmp_path / "cache"
    setup = partial(pausing, "lmzoo.data.building.encode", tmp_path / "reached", tmp_path / "go")
    first = start(tmp_path / "first", data, cache, setup=setup)
    wait_for(tmp_path / "reached")
    prepare(replace(data, split_seed=1), SMALL, cache)
    assert [path.stem for path in (cache / "stores").glob("*.building")] == [whole.hash]
    (tmp_path / "go").touch()
    assert first.wait() == 0
    assert files_of(store_in(cache, whole)) == files_of(whole.folder)


# ---------------------------------------------------------------------------------- killed


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, Store, float]:
    """A text in eight shards that takes a while to prepare, its store, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("longer")
    data = replace(write_corpus(folder / "text", 8, documents=70, sentences=12), shards=8)
    seconds = 0.0
    for name in ("warm", "timed"):
        began = time.monotonic()
        running = start(folder / name, data, folder / f"{name} cache")
        assert running.wait() == 0, running.said
        seconds = time.monotonic() - began
    return data, open_store(folder / "timed cache" / "stores" / running.outcome["hash"]), seconds


def check_kills(folder: Path, data: DataConfig, whole: Store, moments: list[float]) -> int:
    """Prepare, killed after each of these seconds, and then to the end; gives how many came in time."""
    killed = 0
    for number, moment in enumerate(moments):
        running = start(folder / f"run{number}", data, folder / "cache")
        running.process.join(moment)
        if running.process.exitcode is None:
            killed += running.kill()
    last = start(folder / "last", data, folder / "cache")
    assert last.wait() == 0, last.said
    assert last.outcome == {"hash": whole.hash, "content": whole.content}
    store = store_in(folder / "cache", whole)
    assert files_of(store) == files_of(whole.folder)
    assert [path.name for path in store.parent.iterdir() if path.suffix != ".locks"] == [whole.hash]
    return killed


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(tmp_path: Path, longer: tuple[DataConfig, Store, float], seed: int) -> None:
    data, whole, seconds = longer
    drawn = random.Random(seed)
    assert check_kills(tmp_path, data, whole, [drawn.uniform(0.0, 0.7 * seconds) for _ in range(3)]) > 0


@pytest.mark.soak
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_many_random_moments(
    tmp_path: Path, longer: tuple[DataConfig, Store, float], processes: int
) -> None:
    data, whole, seconds = longer
    drawn = random.Random(processes)
    killed = rounds = 0
    while killed < 50:
        rounds += 1
        moments = [drawn.uniform(0.0, seconds) for _ in range(drawn.randint(1, 5))]
        killed += check_kills(tmp_path / f"{rounds}", replace(data, processes=processes), whole, moments)
        shutil.rmtree(tmp_path / f"{rounds}")
    print(f"{killed} kills in {rounds} preparations with data.processes={processes}")


def test_a_command_ended_by_ctrl_c_leaves_nothing_half_written(
    tmp_path: Path, longer: tuple[DataConfig, Store, float]
) -> None:
    data, whole, _ = longer
    given = [
        *("data=text", f"data.train='{data.train}'", "data.valid_fraction=0.2", "data.shards=4"),
        *("tokenizer.vocab_size=300", "data.processes=2"),
    ]
    for attempt in range(6):  # on a busy machine the signal may come when all is done
        cache = tmp_path / str(attempt)
        running = subprocess.Popen(
            [sys.executable, "-m", "lmzoo.prepare", *given, f"cache_dir='{cache}'"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # what a shell starts in the background ignores the signal, and so would its children
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_until(lambda cache=cache: bool(list(cache.glob("stores/*.building/shards/*"))))
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the processes that encode, too
        _, said = running.communicate(timeout=60)
        if running.returncode != 0:
            break
    assert running.returncode == 130
    lines = said.splitlines()
    assert lines[-1] == "error: interrupted"
    assert all(line.startswith("note: finished shards are kept") for line in lines[:-1])
    assert not list(cache.glob("stores/*.building/shards/*.*"))
    assert same(prepare(data, SMALL, cache), whole)


# ---------------------------------------------------------------------------------- no room, no permission


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("num_bytes", [0, 3000, 20_000, 40_000])
def test_a_full_disk_is_one_line(
    tmp_path: Path, longer: tuple[DataConfig, Store, float], num_bytes: int, processes: int
) -> None:
    """At the tokenizer, in a shard's tokens, or at the index over all shards."""
    data, whole, _ = longer
    cache = tmp_path / "cache"
    setup = partial(limited, num_bytes)
    running = start(tmp_path / "run", replace(data, processes=processes), cache, setup=setup)
    assert running.wait() == 1
    error = running.outcome["error"]
    assert error.startswith(f"the corpus cannot be prepared in {cache / 'stores'}: File too large (")
    assert "\n" not in error
    assert not store_in(cache, whole).exists()
    assert not list(cache.glob("stores/*.building/shards/*.*"))
    assert same(prepare(data, SMALL, cache), whole)


def test_too_little_room_is_seen_before_anything_is_read(
    tmp_path: Path, undisturbed: tuple[DataConfig, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = undisturbed
    size = sum(path.stat().st_size for path in Path(data.train).parent.iterdir())
    usage = shutil.disk_usage(tmp_path)._replace(free=int(0.2 * size))
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(room, "make_tokenizer", None)
    with pytest.raises(
        LmzooError, match=r"has 0\.00 GB free, and preparing .* make room, or give another cache_dir="
    ):
        prepare(data, SMALL, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "stores").glob("*.building"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may look into."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        outcomes = Path(name) / "outcomes"
        outcomes.mkdir()
        os.chmod(outcomes, 0o777)
        yield Path(name)
        for path in Path(name).rglob("*"):
            if path.is_dir():
                os.chmod(path, 0o755)


def start_unprivileged(folder: Path, name: str, data: DataConfig) -> Preparation:
    outcomes = folder / "outcomes"
    return start(outcomes / name, data, folder / "cache", setup=partial(unprivileged, outcomes))


def test_a_cache_without_permission(open_folder: Path) -> None:
    data = write_corpus(open_folder / "text", 4)
    stores = open_folder / "cache" / "stores"
    stores.mkdir(parents=True)
    os.chmod(stores, 0o555)
    running = start_unprivileged(open_folder, "run", data)
    assert running.wait() == 1
    assert running.outcome["error"].startswith(
        f"the corpus cannot be prepared in {stores}: Permission denied ("
    )
    assert list(stores.iterdir()) == []


def test_a_read_only_cache_serves_what_it_has(open_folder: Path) -> None:
    data = write_corpus(open_folder / "text", 4)
    made = prepare(data, SMALL, open_folder / "cache")
    for path in (open_folder / "cache").rglob("*"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    running = start_unprivileged(open_folder, "run", data)
    assert running.wait() == 0, running.outcome
    assert running.outcome["content"] == made.content

    tokens = made.folder / "train" / "tokens.npy"
    os.chmod(tokens, 0o644)
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.chmod(tokens, 0o444)
    running = start_unprivileged(open_folder, "again", data)
    assert running.wait() == 1
    assert running.outcome["error"].startswith(
        f"the prepared corpus is damaged: {tokens} has changed since it was written; it cannot be made anew "
        f"and is left as it is: the corpus cannot be prepared in {made.folder.parent}: Permission denied ("
    )
