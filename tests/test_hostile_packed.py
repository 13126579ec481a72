"""Packed files that unpack to far more than they are: each is stopped at its bound, in one line, in little memory."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from corpora import made_documents, write_text
from lmzoo.config import compose
from lmzoo.data.config import DataConfig, check_sources
from lmzoo.data.prepare import prepare
from lmzoo.errors import LmzooError
from lmzoo.tasks.read import load_task
from lmzoo.text import packed
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.packed import LEAST_BOUND, MOST_TIMES, open_unpacked
from lmzoo.text.readers import read_documents, resolve_paths
from lmzoo.text.vectors import VectorFile
from lmzoo.yardsticks.minimal_pairs import read_pairs
from lmzoo.yardsticks.word_uses import read_table

SMALL = TokenizerConfig(vocab_size=300)


def zstandard(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(level=19).compress(content)


PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(PACK[path.suffix](content) if path.suffix in PACK else content)
    return path


def refusal(reading: Callable[[], object]) -> str:
    with pytest.raises(LmzooError) as caught:
        reading()
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------------------------- the bound


@pytest.mark.parametrize("suffix", PACK)
def test_a_file_may_unpack_to_the_very_bound(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.txt{suffix}", b"One.\n\nTwo.\n")
    assert [document.text for document in read_documents([path], max_bytes=11)] == ["One.", "Two."]
    message = refusal(lambda: list(read_documents([path], max_bytes=10)))
    assert message == (
        f"{path} unpacks to more than data.max_bytes=10; raise it if the file is meant to be so large"
    )


@pytest.mark.parametrize("suffix", PACK)
def test_without_a_setting_a_bomb_stops_at_a_quarter_of_a_gibibyte(tmp_path: Path, suffix: str) -> None:
    lines = (b"a" * 99_999 + b"\n") * 20
    path = tmp_path / f"a.jsonl{suffix}"
    count = 1 + LEAST_BOUND // len(lines)
    if suffix == ".zst":
        engine = pytest.importorskip("zstandard").ZstdCompressor().compressobj()
        path.write_bytes(b"".join(engine.compress(lines) for _ in range(count)) + engine.flush())
    elif suffix == ".gz":
        path.write_bytes(gzip.compress(lines, 9) * count)
    else:
        path.write_bytes(lzma.compress(lines) * count)
    assert path.stat().st_size * MOST_TIMES < LEAST_BOUND
    read = 0

    def read_on() -> None:
        nonlocal read
        with open_unpacked(path) as (unpacked, _):
            while block := unpacked.read(2**20):
                read += len(block)

    message = refusal(read_on)
    assert message.startswith(f"{path} unpacks to more than 268,435,456 bytes, 100 times its size or more: ")
    assert LEAST_BOUND - 2**21 < read <= LEAST_BOUND


def test_a_large_file_may_unpack_to_a_hundred_times_its_size(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(packed, "LEAST_BOUND", 1000)
    text = b"The cat sat on the mat, and the dog lay by the door.\n" * 10
    ordinary = write(tmp_path / "a.txt.gz", text * 20)  # 40 times
    assert len(text) * 20 < MOST_TIMES * ordinary.stat().st_size
    assert len(list(read_documents([ordinary]))) == 1
    bomb = write(tmp_path / "b.txt.gz", text * 2000)  # 300 times
    assert "unpacks to more than" in refusal(lambda: list(read_documents([bomb])))
    assert len(list(read_documents([bomb], max_bytes=10**9))) == 1


def test_plain_files_have_no_bound(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", made_documents(30))
    assert len(list(read_documents([path], max_bytes=1))) == 30


# ---------------------------------------------------------------------------------- memory


def run_length_frame(blocks: int) -> bytes:
    """A Zstandard frame written by hand: each block of 4 bytes says "128 KiB of the letter a"."""
    header = struct.pack("<IBB", 0xFD2FB528, 0, (21 - 10) << 3)  # magic, no flags, a window of 2 MiB
    block = struct.pack("<I", (2**17 << 3) | (1 << 1))[:3] + b"a"
    last = struct.pack("<I", (2**17 << 3) | (1 << 1) | 1)[:3] + b"a"
    return header + block * (blocks - 1) + last


def test_a_frame_of_run_lengths_is_unpacked_a_little_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    small = tmp_path / "small.txt.zst"
    small.write_bytes(run_length_frame(2))
    assert [len(document.text) for document in read_documents([small])] == [2**18]
    bomb = tmp_path / "bomb.txt.zst"
    bomb.write_bytes(run_length_frame(100_000))  # 13 GB in 400 kB
    tracemalloc.start()
    message = refusal(lambda: [None for _ in open_and_skip(bomb)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unpacks to more than 268,435,456 bytes" in message
    assert peak < 200_000_000


def open_and_skip(path: Path):
    with open_unpacked(path) as (unpacked, _):
        while block := unpacked.read(2**16):
            yield len(block)


# ---------------------------------------------------------------------------------- Parquet


def parquet(path: Path, texts: list[str] | object, **settings: object) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = texts if isinstance(texts, pa.Array) else pa.array(texts)
    pq.write_table(pa.table({"text": values}), path, **settings)
    return path


@pytest.mark.parametrize("kept", [True, False], ids=["as a dictionary", "as texts"])
def test_a_text_written_once_and_repeated_a_million_times_is_stopped(tmp_path: Path, kept: bool) -> None:
    pa = pytest.importorskip("pyarrow")
    repeated = pa.DictionaryArray.from_arrays(
        pa.array([0] * 1_000_000, pa.int32()), pa.array(["a" * 500_000])
    )
    path = parquet(tmp_path / "a.parquet", repeated, store_schema=kept)  # 500 GB in some kilobytes
    assert path.stat().st_size < 1_000_000
    count = 0

    def read_on() -> None:
        nonlocal count
        for _ in read_documents([path]):
            count += 1

    assert "a.parquet unpacks to more than 268,435,456 bytes" in refusal(read_on)
    assert count == LEAST_BOUND // 500_000


def test_a_column_that_says_how_large_it_is_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = parquet(tmp_path / "a.parquet", [f"{i} " + "a" * 10_000 for i in range(300)], use_dictionary=False)
    assert path.stat().st_size < 1_000_000
    assert len(list(read_documents([path]))) == 300
    assert len(list(read_documents([path], max_bytes=4_000_000))) == 300
    given: list[object] = []
    message = refusal(lambda: given.extend(read_documents([path], max_bytes=2_000_000)))
    assert message.startswith(f"{path} unpacks to more than data.max_bytes=2,000,000")
    assert given == []


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    message = refusal(lambda: list(read_documents([path])))
    assert message == f"{path} has 2 columns 'text'; give each a name of its own"


# ---------------------------------------------------------------------------------- everything else that is packed

BOMBS = {
    "vectors": lambda path: VectorFile(path).find(["nowhere"]),
    "pairs": lambda path: list(read_pairs(path)),
    "table": lambda path: list(read_table(path, ["word"])),
    "task": lambda path: load_task(str(path.with_name("task.yaml")), None),
}
LINE = {
    "vectors": b"word 1 2\n",
    "pairs": b"\n",
    "table": b"word\n",
    "task": b"one\teven\ntwo\todd\n",
}
HEAD = {"table": b"word\n", "task": b"text\tlabel\n"}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("reader", BOMBS)
def test_every_packed_reader_has_the_same_bound(
    tmp_path: Path, monkeypatch, reader: str, suffix: str
) -> None:
    monkeypatch.setattr(packed, "LEAST_BOUND", 100_000)
    path = write(tmp_path / f"bomb.tsv{suffix}", HEAD.get(reader, b"") + LINE[reader] * 150_000)
    (tmp_path / "task.yaml").write_text(
        f"shape: sentence\ntexts: [text]\nlabel: label\ntrain: {path.name}\nsplit: hash\n"
    )
    message = refusal(lambda: BOMBS[reader](path))
    assert message.startswith(f"{path} unpacks to more than ")
    assert "unpack it yourself" in message


# ---------------------------------------------------------------------------------- the setting


def test_the_setting_reaches_the_reader_and_leaves_nothing_behind(tmp_path: Path) -> None:
    documents = made_documents(40)
    path = write(tmp_path / "a.txt.gz", "\n\n".join(documents).encode())
    data = DataConfig(source="text", train=str(path), valid_fraction=0.2, max_bytes=1000.0)
    assert "data.max_bytes=1,000" in refusal(lambda: prepare(data, SMALL, tmp_path / "cache"))
    there = (tmp_path / "cache" / "stores").iterdir()
    assert not [entry for entry in there if entry.is_dir() and entry.suffix != ".locks"]


def test_the_setting_is_no_part_of_a_store(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt.gz", "\n\n".join(made_documents(40)).encode())
    hashes = {
        prepare(
            DataConfig(source="text", train=str(path), valid_fraction=0.2, max_bytes=most),
            SMALL,
            tmp_path / "cache",
        ).hash
        for most in (None, 1e6, 10**9)
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("given", ["1000000", "1e6", "1_000_000"])
def test_the_setting_is_a_number_in_any_spelling(given: str) -> None:
    assert compose(["data=text", "data.train=a.txt", f"data.max_bytes={given}"]).data.max_bytes == 1e6


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["data.max_bytes=5"], "data.max_bytes=5 goes with data=text"),
        (["data=text", "data.train=a.txt", "data.max_bytes=0"], "data.max_bytes=0.0 is out of range"),
        (["data=text", "data.train=a.txt", "data.max_bytes=nan"], "data.max_bytes=nan is out of range"),
        (
            ["data=text", "data.train=a.txt", "data.max_bytes=much"],
            "data.max_bytes=much is of the wrong type",
        ),
    ],
)
def test_settings_that_are_refused(overrides: list[str], part: str) -> None:
    assert part in refusal(lambda: check_sources(compose(overrides).data))


# ---------------------------------------------------------------------------------- what is no file


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    message = refusal(lambda: resolve_paths(str(tmp_path / "a.txt"), "data.train"))
    assert "a.txt is no regular file" in message
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    assert "b.jsonl is no regular file" in refusal(
        lambda: resolve_paths(str(tmp_path / "b.jsonl"), "data.train")
    )


@pytest.mark.parametrize(
    "name",
    [
        "zero\0.txt",
        "*\0.txt",
        "x" * 5000 + ".txt",
        "~nobody-of-this-name/a.txt",
        "folder\0/*.txt",
        "\x1b[31m.txt",
    ],
    ids=["zero byte", "zero byte in a glob", "too long", "nobody's home", "zero byte in a folder", "escape"],
)
def test_names_that_no_file_has_are_refused_in_one_line(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(lambda: resolve_paths(name, "data.train"))
    assert message.startswith(("data.train=", "data.train: "))
    assert len(message) < 5400


def test_nobodys_home_is_refused_when_a_run_is_composed() -> None:
    message = refusal(lambda: compose(["data=text", "data.train='~nobody-of-this-name/a.txt'"]))
    assert message.startswith("~nobody-of-this-name/a.txt: nobody of this name has a home here")
    long = "x" * 5000
    assert (
        compose(["data=hub", f"data.name={long}"]).data.name == long
    )  # too long for a folder: a name on the hub


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    assert "a.txt" in refusal(lambda: resolve_paths(str(tmp_path / "a.txt"), "data.train"))
