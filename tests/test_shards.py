"""A corpus in shards: whatever prepares them, and however many there are, the same comes out."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from corpora import made_documents, write_text
from lmzoo import prepare as command
from lmzoo.data import prepare as room
from lmzoo.data.building import Building
from lmzoo.data.config import DataConfig
from lmzoo.data.corpus import Corpus, Sample
from lmzoo.data.joined import JoinedArray
from lmzoo.data.prepare import prepare, prepare_shards
from lmzoo.data.processes import in_processes
from lmzoo.data.store import PARTS, Part, Store, content_of, open_store
from lmzoo.data.views import build_view
from lmzoo.errors import LmzooError
from lmzoo.objectives.config import OBJECTIVES
from lmzoo.yardsticks.ngram import train_on_part
from lmzoo.yardsticks.run import sentences_of
from preparing import (
    SMALL,
    arrays_of,
    doubled,
    dying,
    failing,
    files_of,
    pausing,
    same,
    start,
    wait_for,
    wait_until,
    write_corpus,
)

FILES = 6

# ---------------------------------------------------------------------------------- arrays end to end


@pytest.mark.parametrize("lengths", [[5], [5, 3, 9], [0, 4, 0, 0, 3, 0], [1] * 12, [0, 0, 2]], ids=str)
def test_joined_arrays_read_like_one(lengths: list[int]) -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 1000, length).astype(np.uint16) for length in lengths]
    joined, whole = JoinedArray(arrays), np.concatenate(arrays)
    assert len(joined) == len(whole)
    assert joined.shape == whole.shape
    assert joined.dtype == whole.dtype
    assert np.array_equal(np.asarray(joined), whole)
    for start_ in (None, 0, 1, 2, 5, 7, -1, -3, 100):
        for stop in (None, 0, 1, 4, 5, 9, -1, -2, 100):
            for step in (None, 2, -1):
                where = slice(start_, stop, step)
                assert joined[where].tolist() == whole[where].tolist(), where
                assert joined[where].dtype == whole.dtype
    for shape in ((), (1,), (7,), (3, 4), (2, 0)):
        places = random.integers(-len(whole), len(whole), shape)
        assert np.array_equal(joined[places], whole[places])
        assert joined[places].dtype == whole.dtype
    assert joined[len(whole) - 1] == whole[-1]
    for outside in (len(whole), -len(whole) - 1, [0, len(whole)]):
        with pytest.raises(IndexError):
            joined[outside]
    with pytest.raises(IndexError):
        joined[np.ones(len(whole), dtype=bool)]


def test_what_is_gathered_may_be_written_to() -> None:
    arrays = [np.arange(3), np.arange(3)]
    for places in ([0, 1], [0, 4]):
        JoinedArray(arrays)[np.array(places)][:] = 9
    assert [array.tolist() for array in arrays] == [[0, 1, 2]] * 2


# ---------------------------------------------------------------------------------- where shards end


@pytest.mark.parametrize(
    ("sizes", "shards", "ends"),
    [
        ([10, 10, 10, 10], 1, [4]),
        ([10, 10, 10, 10], 2, [2, 4]),
        ([10, 10, 10, 10], 3, [1, 3, 4]),
        ([12, 13, 14, 15, 16, 17], 6, [1, 2, 3, 4, 5, 6]),
        ([10, 10, 0], 2, [1, 3]),
        ([0, 0], 2, [2]),
        ([10, 10, 10, 10], 4, [1, 2, 3, 4]),
        ([10, 10, 10, 10], 256, [1, 2, 3, 4]),
        ([100, 1, 1, 1], 4, [1, 4]),
        ([1, 1, 1, 100], 4, [3, 4]),
        ([10, 10, 10, 10], None, [4]),
        ([2**27] * 4, None, [1, 2, 3, 4]),
        ([2**26] * 4, None, [2, 4]),
        ([2**28] * 2, None, [1, 2]),
        ([2**27] * 1024, None, list(range(4, 1025, 4))),
    ],
)
def test_where_shards_end(tmp_path: Path, sizes: list[int], shards: int | None, ends: list[int]) -> None:
    data = DataConfig(source="text", train=str(tmp_path / "*.txt"), shards=shards)
    for number, size in enumerate(sizes):
        with (tmp_path / f"{number:04d}.txt").open("wb") as file:
            file.truncate(size)  # takes no room on the disk
    assert Corpus(data).shard_ends() == ends


def test_shards_read_one_after_the_other_are_the_text(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "v", "t"):
        write_text(tmp_path / f"{name}.txt", [f"{name} {number}" for number in range(3)])
    data = DataConfig(
        source="text",
        train=[str(tmp_path / f"{name}.txt") for name in "abc"],
        valid=str(tmp_path / "v.txt"),
        test=str(tmp_path / "t.txt"),
    )
    corpus = Corpus(data)
    whole = list(corpus.read(lambda amount: None))
    assert len(whole) == 15
    for ends in ([5], [2, 5], [1, 2, 3, 4, 5], [4, 5]):
        shards = corpus.cut(ends)
        assert len(shards) == len(ends)
        assert [found for shard in shards for found in shard.read(lambda amount: None)] == whole
        assert sum(shard.total or 0 for shard in shards) == corpus.total
        assert all(shard.is_at_rest() for shard in shards)
    first, second = corpus.cut([2, 5])
    (tmp_path / "c.txt").write_text("another\n")
    assert [shard.is_at_rest() for shard in (corpus, first, second)] == [False, True, False]


@pytest.mark.parametrize("seed", range(30))
def test_samples_of_shards_are_a_sample_of_the_whole(seed: int) -> None:
    random = np.random.default_rng(seed)
    texts = [f"{number} " + "x" * int(random.integers(0, 60)) for number in range(80)]
    texts = [texts[i] for i in random.integers(0, 80, 160)]  # with copies, also across shards
    room_ = int(random.integers(50, 4000))
    whole = Sample(room_)
    for text in texts:
        whole.add(text)
    parts = [Sample(room_) for _ in range(int(random.integers(1, 6)))]
    for number, text in enumerate(texts):
        parts[number % len(parts)].add(text)
    merged = Sample(room_)
    for i in random.permutation(len(parts)):
        merged.merge(pickle.loads(pickle.dumps(parts[i])))
    assert list(merged.texts()) == list(whole.texts())
    merged.add("one more")
    whole.add("one more")
    assert list(merged.texts()) == list(whole.texts())


# ---------------------------------------------------------------------------------- the same comes out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_corpus(tmp_path_factory.mktemp("text"), FILES)


@pytest.fixture(scope="module")
def whole(corpus: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """In one shard."""
    return prepare(corpus, SMALL, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def sharded(corpus: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare(replace(corpus, shards=FILES), SMALL, tmp_path_factory.mktemp("sharded"))


def test_one_shard_has_plain_arrays(whole: Store) -> None:
    assert type(whole.parts["train"].tokens) is np.ndarray
    assert sorted(path.name for path in whole.folder.iterdir()) == [
        *("store.json", "tokenizer.json", "train", "valid")
    ]
    files = {name: entry["blake2b"] for name, entry in manifest_of(whole)["files"].items()}
    assert whole.content == content_of(files)


def manifest_of(store: Store) -> dict:
    return json.loads((store.folder / "store.json").read_text())


@pytest.mark.parametrize(("shards", "processes"), [(2, 1), (4, 1), (FILES, 1), (256, 1), (3, 2), (FILES, 3)])
def test_neither_shards_nor_processes_leave_a_trace(
    tmp_path: Path, corpus: DataConfig, whole: Store, shards: int, processes: int
) -> None:
    store = prepare(replace(corpus, shards=shards, processes=processes), SMALL, tmp_path)
    assert store.hash == whole.hash
    assert same(store, whole)
    assert len(manifest_of(store)["tokens"]["train"]) == min(shards, FILES)
    names = {path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file()}
    assert names == {*manifest_of(store)["files"], "store.json"}
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == [
        store.hash,
        f"{store.hash}.locks",
    ]
    assert store.unigram_entropy() == whole.unigram_entropy()
    assert same(open_store(store.folder), whole)


def test_parts_given_apart(tmp_path: Path) -> None:
    for name, count in {"a": 20, "b": 20, "c": 20, "v": 4, "t": 4}.items():
        write_text(tmp_path / f"{name}.txt", made_documents(count, seed=ord(name)))
    data = DataConfig(
        source="text",
        train=[str(tmp_path / f"{name}.txt") for name in "abc"],
        valid=str(tmp_path / "v.txt"),
        test=str(tmp_path / "t.txt"),
    )
    one = prepare(data, SMALL, tmp_path / "one")
    for shards in (2, 5):
        many = prepare(replace(data, shards=shards), SMALL, tmp_path / f"{shards}")
        assert list(many.parts) == list(PARTS)
        assert same(one, many)


@pytest.mark.parametrize(
    ("family", "view"),
    [
        ("bilm", OBJECTIVES["bilm"]().views[0]),
        ("clm", OBJECTIVES["clm"]().views[0]),
        ("mlm", OBJECTIVES["mlm"]().views[0]),
        ("mlm_nsp", "pairs"),
        ("bilm", "sentences"),
        ("clm", "stream"),
    ],
)
def test_every_view_gives_the_same_rows(whole: Store, sharded: Store, family: str, view: str) -> None:
    assert view in OBJECTIVES[family]().views
    one, many = (
        build_view(view, store.parts["train"], store.tokenizer.special, 32, 3) for store in (whole, sharded)
    )
    assert len(one) == len(many)
    assert one.num_tokens == many.num_tokens
    assert one.unique_tokens(7, 5) == many.unique_tokens(7, 5)
    random = np.random.default_rng(0)
    for rows in (np.arange(len(one)), random.permutation(len(one)), np.array([0]), np.array([len(one) - 1])):
        left, right = (each.batch(rows, rows % 3, rows) for each in (one, many))
        for name, value in vars(left).items():
            other = getattr(right, name)
            assert (value is None and other is None) or np.array_equal(value, other), name


def test_a_part_in_shards_travels_to_workers_by_name(sharded: Store, whole: Store) -> None:
    part = pickle.loads(pickle.dumps(sharded.parts["train"]))
    assert isinstance(part, Part)
    assert isinstance(part.tokens, JoinedArray)
    assert np.array_equal(part.tokens, whole.parts["train"].tokens)


def test_yardsticks_read_shards(whole: Store, sharded: Store) -> None:
    assert sentences_of(sharded) == sentences_of(whole)
    rows = [
        row.tolist() for row in np.split(whole.parts["valid"].tokens, whole.parts["valid"].documents[1:-1])
    ]
    for most in (10**6, 1000):
        (one, counted), (many, also) = (
            train_on_part(store.parts["train"], 300, 3, most_tokens=most) for store in (whole, sharded)
        )
        assert counted == also
        assert np.array_equal(one.scores(rows), many.scores(rows))


def test_ends_of_sentences(whole: Store) -> None:
    part = whole.parts["train"]
    ends = np.concatenate([part.sentence_bounds(i)[1] for i in range(part.num_documents)])
    count = len(part.sentences)
    for first, after in ((0, count), (0, 1), (3, 40), (count - 1, count), (5, 5)):
        assert part.sentence_ends(first, after).tolist() == ends[first:after].tolist()


@pytest.mark.parametrize("key", ["shards", "processes"])
def test_text_without_files_is_not_shared_out(tmp_path: Path, key: str) -> None:
    with pytest.raises(LmzooError, match=f"data.{key}=2 goes with data=text"):
        prepare(DataConfig(**{key: 2}), SMALL, tmp_path)
    with pytest.raises(LmzooError, match="shard=0 goes with data=text"):
        prepare_shards(DataConfig(), SMALL, tmp_path, "0")


# ---------------------------------------------------------------------------------- going on


def building_of(whole: Store, cache: Path) -> Building:
    return Building(cache / "stores", whole.hash)


def test_finished_shards_are_not_built_again(
    tmp_path: Path, corpus: DataConfig, whole: Store, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    data = replace(corpus, shards=FILES)
    for number in (0, 2):
        prepare_shards(data, SMALL, tmp_path, str(number))
    building = building_of(whole, tmp_path)
    before = {path: path.stat().st_ino for path in building.folder.glob("shards/*/*/tokens.npy")}
    assert len(before) == 4
    monkeypatch.setattr(room, "make_tokenizer", None)  # nor is the tokenizer trained again
    store = prepare(data, SMALL, tmp_path)
    assert "2 of 6 shards are finished already" in capsys.readouterr().err
    assert same(store, whole)
    for path, inode in before.items():
        assert (store.folder / path.relative_to(building.folder)).stat().st_ino == inode


def test_a_kill_at_joining_loses_no_shard(tmp_path: Path, corpus: DataConfig, whole: Store) -> None:
    data, cache = replace(corpus, shards=FILES), tmp_path / "cache"
    setup = partial(pausing, "lmzoo.data.prepare.join_shards", tmp_path / "reached", tmp_path / "go")
    running = start(tmp_path / "run", data, cache, setup=setup)
    wait_for(tmp_path / "reached")
    assert running.kill()
    assert building_of(whole, cache).num_finished() == FILES
    again = start(tmp_path / "again", data, cache)
    assert again.wait() == 0
    assert again.said == "6 of 6 shards are finished already\n"
    assert same(open_store(tmp_path / "cache" / "stores" / whole.hash), whole)


def test_the_plan_that_was_begun_is_kept_to(tmp_path: Path, corpus: DataConfig, whole: Store) -> None:
    prepare_shards(replace(corpus, shards=3), SMALL, tmp_path, "1")
    store = prepare(replace(corpus, shards=FILES), SMALL, tmp_path)
    assert len(manifest_of(store)["tokens"]["train"]) == 3
    assert same(store, whole)


@pytest.mark.parametrize("at", ["before the renaming", "while it is cleared"])
def test_a_store_that_only_lacks_its_name_is_given_it(
    tmp_path: Path, corpus: DataConfig, whole: Store, monkeypatch, at: str
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    data = replace(corpus, shards=FILES)
    with monkeypatch.context() as patched:
        if at == "before the renaming":
            patched.setattr(room, "publish", stop)
        else:
            rename = Path.rename
            patched.setattr(
                Path, "rename", lambda path, to: stop() if to.name == whole.hash else rename(path, to)
            )
        with pytest.raises(KeyboardInterrupt):
            prepare(data, SMALL, tmp_path)
    assert (building_of(whole, tmp_path).folder / "store.json").exists()
    monkeypatch.setattr(room._Wanted, "_build_shards", None)
    assert same(prepare(data, SMALL, tmp_path), whole)
    assert not building_of(whole, tmp_path).folder.exists()


def flip(path: Path) -> None:
    """Turn one bit over in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["train/tokens.npy", "valid/documents.npy", "train/unigrams.npy", "shard.json"]
)
def test_a_finished_shard_that_is_damaged_is_built_again(
    tmp_path: Path, corpus: DataConfig, whole: Store, capsys: pytest.CaptureFixture, name: str
) -> None:
    data = replace(corpus, shards=FILES)
    for number in range(FILES - 1):
        prepare_shards(data, SMALL, tmp_path, str(number))
    damaged = building_of(whole, tmp_path).shard(3) / name
    flip(damaged)
    capsys.readouterr()
    assert same(prepare(data, SMALL, tmp_path), whole)
    if name != "shard.json":
        assert f"{damaged} has changed since it was written; shard 3 is made anew" in capsys.readouterr().err


def test_a_disk_that_changes_what_is_written_is_given_up(
    tmp_path: Path, corpus: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Building.finish_shard

    def spoilt(self: Building, number: int, *rest: object) -> None:
        plain(self, number, *rest)  # type: ignore[arg-type]
        flip(self.shard(number) / "train" / "tokens.npy")

    monkeypatch.setattr(Building, "finish_shard", spoilt)
    with pytest.raises(LmzooError, match="comes back changed; is the disk whole"):
        prepare(replace(corpus, shards=2), SMALL, tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "tokenizer.json"])
def test_with_a_damaged_plan_all_begins_anew(
    tmp_path: Path, corpus: DataConfig, whole: Store, name: str
) -> None:
    data = replace(corpus, shards=FILES)
    prepare_shards(data, SMALL, tmp_path, "1")
    building = building_of(whole, tmp_path)
    flip(building.folder / name)
    assert building.read_plan() is None
    assert same(prepare(data, SMALL, tmp_path), whole)


def test_another_store_s_shard_is_not_taken(tmp_path: Path, corpus: DataConfig, whole: Store) -> None:
    other = replace(corpus, split_seed=1, shards=FILES)
    prepare_shards(other, SMALL, tmp_path / "other", "2")
    (foreign,) = (tmp_path / "other").glob("stores/*.building/shards/00002")
    data = replace(corpus, shards=FILES)
    prepare_shards(data, SMALL, tmp_path, "0")
    building = building_of(whole, tmp_path)
    shutil.copytree(foreign, building.shard(2))
    assert building.read_shard(2) is None
    assert same(prepare(data, SMALL, tmp_path), whole)


def test_what_is_wrong_with_one_file_leaves_the_other_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = replace(write_corpus(tmp_path / "text", 4), shards=4)
    last = tmp_path / "text" / "03.txt"
    stat, good = last.stat(), last.read_bytes()
    last.write_bytes(b"\xff" + good[1:])
    os.utime(last, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    tokenizer = replace(SMALL, file=str(made_tokenizer(tmp_path)))
    with pytest.raises(LmzooError, match=r"03\.txt:1 is not UTF-8"):
        prepare(data, tokenizer, tmp_path)
    assert "note: finished shards are kept, 3 of them" in capsys.readouterr().err
    last.write_bytes(good)
    os.utime(last, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    store = prepare(data, tokenizer, tmp_path)
    assert "3 of 4 shards are finished already" in capsys.readouterr().err
    assert same(store, prepare(replace(data, shards=1), tokenizer, tmp_path / "one"))


def made_tokenizer(tmp_path: Path) -> Path:
    text = write_text(tmp_path / "made.txt", made_documents(40))
    made = prepare(DataConfig(source="text", train=str(text), valid_fraction=0.2), SMALL, tmp_path / "made")
    return made.folder / "tokenizer.json"


def test_old_leftovers_go_and_new_ones_stay(tmp_path: Path, corpus: DataConfig, whole: Store) -> None:
    stores = tmp_path / "stores"
    for name, age in {"old": 8, "new": 6}.items():
        shard = stores / f"{name}.building" / "shards" / "00000"
        shard.mkdir(parents=True)
        long_ago = time.time() - age * 86_400
        for folder in (shard, shard.parent, shard.parent.parent):
            os.utime(folder, (long_ago, long_ago))
    (stores / "some.damaged").mkdir()
    prepare(corpus, SMALL, tmp_path)
    assert sorted(path.name for path in stores.iterdir() if path.suffix != ".locks") == [
        *sorted([whole.hash, "new.building"])
    ]


# ---------------------------------------------------------------------------------- jobs


def test_jobs_one_after_the_other(tmp_path: Path, corpus: DataConfig, whole: Store) -> None:
    data = replace(corpus, shards=FILES)
    for number in range(FILES):
        done = prepare_shards(data, SMALL, tmp_path, str(number))
        assert (done.asked, done.finished, done.total) == ([number], number + 1, FILES)
        assert (done.store is not None) == (number == FILES - 1)
    assert same(open_store(tmp_path / "stores" / whole.hash), whole)
    late = prepare_shards(data, SMALL, tmp_path, "0/4")
    assert (late.asked, late.finished) == ([0, 4], FILES)
    assert late.store is not None


def test_shares_of_jobs(tmp_path: Path, corpus: DataConfig, whole: Store) -> None:
    data = replace(corpus, shards=FILES)
    shares = [prepare_shards(data, SMALL, tmp_path, f"{job}/4").asked for job in range(4)]
    assert shares == [[0, 4], [1, 5], [2], [3]]
    assert same(open_store(tmp_path / "stores" / whole.hash), whole)
    assert prepare_shards(replace(data, shards=1), SMALL, tmp_path / "b", "7/9").asked == []


def test_a_job_without_shards_of_its_own_writes_the_index(
    tmp_path: Path, corpus: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(corpus, shards=2)
    with monkeypatch.context() as patched:
        patched.setattr(room._Wanted, "_finish", lambda self, total: [])
        patched.setattr(room, "open_store", lambda folder: None)
        for number in range(2):
            prepare_shards(data, SMALL, tmp_path, str(number))
    assert prepare_shards(data, SMALL, tmp_path, "5/6").store is not None


def test_a_job_that_comes_as_the_store_appears_builds_nothing(
    tmp_path: Path, corpus: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(corpus, shards=2)
    made = prepare(data, SMALL, tmp_path)
    plain, calls = room._Wanted.find, []

    def late(self: room._Wanted) -> Store | None:
        calls.append(1)
        return None if len(calls) == 1 else plain(self)

    monkeypatch.setattr(room._Wanted, "find", late)
    monkeypatch.setattr(room, "make_tokenizer", None)
    done = prepare_shards(data, SMALL, tmp_path, "0")
    assert done.store is not None
    assert done.store.folder == made.folder


@pytest.mark.parametrize(
    ("share", "words"),
    [
        ("6", "shard=6 is not there: this text is prepared in 6 shards, numbered from 0"),
        ("4/4", "shard=4/4 is not there: 4 jobs are numbered from 0 to 3"),
        ("0/0", "shard=0/0 is not there"),
        ("-1", "shard=-1 is not known: give a number from 0, or 3/16"),
        ("a", "shard=a is not known"),
        ("1/2/3", "shard=1/2/3 is not known"),
    ],
)
def test_shares_that_are_not_there(tmp_path: Path, corpus: DataConfig, share: str, words: str) -> None:
    with pytest.raises(LmzooError, match=words):
        prepare_shards(replace(corpus, shards=FILES), SMALL, tmp_path, share)


def test_jobs_at_once(tmp_path: Path, corpus: DataConfig, whole: Store) -> None:
    data = replace(corpus, shards=FILES)
    setup = partial(pausing, "lmzoo.data.prepare.make_tokenizer", tmp_path / "trained", tmp_path / "go")
    jobs = [
        start(tmp_path / f"job{job}", data, tmp_path / "cache", share=f"{job}/3", setup=setup)
        for job in range(3)
    ]
    wait_for(tmp_path / "trained")
    plain = start(tmp_path / "plain", data, tmp_path / "cache")
    everyone = [*jobs, plain]
    wait_until(lambda: sum("that is training the tokenizer" in each.said for each in everyone) == 3)
    (tmp_path / "go").touch()
    assert [each.wait() for each in everyone] == [0] * 4
    assert (tmp_path / "trained").read_text().count("\n") == 1
    assert plain.outcome == {"hash": whole.hash, "content": whole.content}
    store = open_store(tmp_path / "cache" / "stores" / whole.hash)
    assert same(store, whole)
    alone = prepare(data, SMALL, tmp_path / "alone")
    assert files_of(store.folder) == files_of(alone.folder)


def test_the_command_of_a_job(
    tmp_path: Path, corpus: DataConfig, whole: Store, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = ["data=text", f"data.train='{corpus.train}'", "data.valid_fraction=0.2", "data.shards=3"]
    said += ["tokenizer.vocab_size=300", f"cache_dir='{tmp_path / 'cache'}'"]
    command.main([*said, "shard=1"])
    assert capsys.readouterr().out.startswith("shards      1: finished; 1 of 3 altogether\ntime ")
    command.main([*said, "shard=2/3"])
    assert capsys.readouterr().out.startswith("shards      2: finished; 2 of 3 altogether\ntime ")
    with pytest.raises(SystemExit) as stop:
        command.main([*said, "shard=3"])
    assert stop.value.code == 1
    assert "error: shard=3 is not there" in capsys.readouterr().err
    command.main(["-m", *said, "shard=0,1,2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("shards")] == [
        f"shards      {number}: finished; 3 of 3 altogether" for number in range(3)
    ]
    assert sum(line.startswith("store ") for line in lines) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]  # a sweep leaves no folders of its own
    assert same(open_store(tmp_path / "cache" / "stores" / whole.hash), whole)


def test_a_sweep_in_which_a_job_fails(
    tmp_path: Path, corpus: DataConfig, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = ["data=text", f"data.train='{corpus.train}'", "data.shards=2", "tokenizer.vocab_size=300"]
    with pytest.raises(SystemExit) as stop:
        command.main(["-m", *said, f"cache_dir='{tmp_path / 'cache'}'", "shard=0,1,2"])
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert "2: finished; 2 of 2 altogether" not in captured.out
    assert captured.out.count("finished") == 2
    assert "job 2" in captured.err
    assert "shard=2 is not there" in captured.err
    for argv in (["-m", *said], ["-m"], ["--cfg", "job", "shard=0"]):
        with pytest.raises(SystemExit) as stop:
            command.main(argv)
        assert stop.value.code == 1
        assert capsys.readouterr().err.count("\n") == 1


# ---------------------------------------------------------------------------------- processes


def test_items_in_processes() -> None:
    told: list[int] = []
    assert sorted(in_processes(doubled, range(7), 2, told.append)) == [0, 2, 4, 6, 8, 10, 12]
    assert sum(told) == 21
    assert list(in_processes(doubled, [], 2, told.append)) == []


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (partial(failing, error=LmzooError("a line")), LmzooError, "^a line$"),
        (partial(failing, error=OSError(28, "No space left on device", "x")), OSError, "No space left.*'x'"),
        (
            partial(failing, error=ZeroDivisionError("a bug")),
            RuntimeError,
            "(?s)in failing.*ZeroDivisionError: a bug",
        ),
        (dying, LmzooError, "ended by signal SIGKILL; if memory ran out, give fewer data.processes"),
    ],
    ids=["refusal", "disk", "bug", "killed"],
)
def test_what_ends_one_process_ends_all(function, kind: type[Exception], words: str) -> None:
    before = children(os.getpid())
    with pytest.raises(kind, match=words):
        list(in_processes(function, range(4), 2, lambda amount: None))
    assert children(os.getpid()) <= before


def children(pid: int) -> set[int]:
    """Processes that one has started."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_processes_end_with_the_one_that_started_them(
    tmp_path: Path, corpus: DataConfig, whole: Store
) -> None:
    data = replace(corpus, shards=FILES, processes=2)
    setup = partial(pausing, "lmzoo.data.prepare.in_processes", tmp_path / "reached", tmp_path / "go")
    running = start(tmp_path / "run", data, tmp_path / "cache", setup=setup)
    wait_for(tmp_path / "reached")
    (tmp_path / "go").touch()
    found: set[int] = set()

    def both_run() -> bool:
        found.update(pid for pid in children(running.process.pid) if "spawn_main" in command_line(pid))
        return len(found) == 2

    wait_until(both_run)
    assert running.kill()
    wait_until(lambda: not any("spawn_main" in command_line(pid) for pid in found))
    assert same(prepare(data, SMALL, tmp_path / "cache"), whole)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_arrays_of_a_store(sharded: Store, whole: Store) -> None:
    """What `same` compares is compared: one value more is seen."""
    arrays = arrays_of(sharded)
    assert len(arrays) == 10
    assert all(np.array_equal(arrays[name], array) for name, array in arrays_of(whole).items())
    assert not same(whole, replace(sharded, text_bytes={}))
