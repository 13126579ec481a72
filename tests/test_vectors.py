"""Word vectors out of text files of word2vec, fastText and GloVe, and what is wrong with such files."""

from __future__ import annotations

import gzip
import io
import lzma
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lmzoo.errors import LmzooError
from lmzoo.text import vectors as room
from lmzoo.text.vectors import VectorFile

WORDS = {"the": [0.5, -1.25, 3.0], "sea": [1e-3, 2.0, -0.0], "中文": [7.0, 8.0, 9.0]}


def lines_of(words: dict[str, list[float]]) -> list[bytes]:
    return [f"{word} {' '.join(map(str, values))}".encode() for word, values in words.items()]


PLAIN = lines_of(WORDS)
KINDS = {
    "glove": b"\n".join(PLAIN) + b"\n",
    "no line break at the end": b"\n".join(PLAIN),
    "word2vec": b"3 3\n" + b" \n".join(PLAIN) + b" \n",
    "fasttext": b"3 3\n" + b"\n".join(PLAIN) + b"\n",
    "crlf": b"3 3\r\n" + b"\r\n".join(PLAIN) + b"\r\n",
}


def write(path: Path, content: bytes) -> Path:
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix)
    if path.suffix == ".zst":
        packed = pytest.importorskip("zstandard").ZstdCompressor().compress
    path.write_bytes(packed(content) if packed else content)
    return path


def as_lists(found: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {word: vector.tolist() for word, vector in found.items()}


@pytest.mark.parametrize("suffix", [".txt", ".vec", ".gz", ".xz", ".zst"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(tmp_path: Path, kind: str, suffix: str) -> None:
    file = VectorFile(write(tmp_path / f"v{suffix}", KINDS[kind]))
    assert file.dimension == 3
    found = file.find(["中文", "the", "boat"])
    assert as_lists(found) == {"the": WORDS["the"], "中文": WORDS["中文"]}
    assert all(vector.dtype == np.float32 and vector.shape == (3,) for vector in found.values())
    assert file.find({"sea"})["sea"].tolist() == np.array(WORDS["sea"], dtype=np.float32).tolist()
    assert file.find([]) == {}


def test_words_with_spaces(tmp_path: Path) -> None:
    content = b". . . 9 9\nat name@domain.com 1 2\nthe 3 4\nat 5 6\n\xc2\xa0 7 8\n. 1 1\n"
    file = VectorFile(write(tmp_path / "glove.txt", content))
    assert file.dimension == 2
    assert as_lists(file.find([". . .", "at name@domain.com", "at", "\xa0", "name@domain.com"])) == {
        ". . .": [9, 9],
        "at name@domain.com": [1, 2],
        "at": [5, 6],
        "\xa0": [7, 8],
    }


def test_of_a_word_twice_the_first_counts(tmp_path: Path) -> None:
    file = VectorFile(write(tmp_path / "v.txt", b"3 1\na 1\nb 2\na 3\n"))
    assert as_lists(file.find(["a", "missing"])) == {"a": [1]}


def test_words_that_look_like_numbers_and_other_bytes(tmp_path: Path) -> None:
    content = b"2019 1 2\n\xff\xfe 3 4\n\xe4\xb8 5 6\n\x85 7 8\n\xc2\x85 9 9\n1,000 1 1\n"
    file = VectorFile(write(tmp_path / "v.vec", content))
    assert as_lists(file.find(["2019", "1,000", "\x85", "\ufffd", "\ud800"])) == {
        "2019": [1, 2],
        "1,000": [1, 1],
        "\x85": [9, 9],
    }


def test_it_stops_where_all_are_found(tmp_path: Path) -> None:
    file = VectorFile(write(tmp_path / "v.txt", b"3 2\na 1 2\nb 3 4\nc broken\n"))
    assert set(file.find(["b", "a"])) == {"a", "b"}
    with pytest.raises(LmzooError, match=r"v.txt:4 has 1 values after its word instead of 2"):
        file.find(["b", "c"])


BAD = {
    "empty": (b"", "v.txt is empty"),
    "blank": (b"\n \n", "v.txt is empty"),
    "words alone": (b"the\nsea\n", "v.txt:1 has no vector after its word"),
    "header of none": (b"3 0\na\nb\nc\n", "v.txt:1 has no vector after its word"),
    "too few": (b"a 1 2\nb 1 2\nx 1\n", "v.txt:3 has 1 values after its word instead of 2"),
    "too many": (b"a 1 2\nb 1 2\nx 1 2 3\n", "v.txt:3 has 3 values after its word instead of 2"),
    "first too few": (b"a 1\nx 1 2\ny 1 2\n", "v.txt:1 has 1 values after its word instead of 2"),
    "two in a line": (b"a 1 2\nb 1 2\nc 1 2 x 1 2\n", "v.txt:3 has 5 values after its word instead of 2"),
    "too many after a header": (b"2 2\na 1 2\nx y 1 2\n", "v.txt:3 has 3 values after its word instead of 2"),
    "not as promised": (b"2 3\na 1 2\nx 1 2\n", "v.txt:2 has 2 values after its word instead of 3"),
    "cut between lines": (b"5 2\na 1 2\nb 1 2\n", "v.txt ends after 2 words, and its first line promises 5"),
    "no number": (b"a 1 2\nx 1 two\n", "v.txt:2 has a value that is no number"),
    "not a number": (b"a 1 2\nx 1 nan\n", "v.txt:2 has a value that is no finite number"),
    "infinite": (b"a 1 2\nx 1 1e999\n", "v.txt:2 has a value that is no finite number"),
    "binary": (b"2 2\na \x00\x01\x02\n\x03\x04 \x05", "v.txt:2 has 1 values after its word instead of 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_line(tmp_path: Path, case: str) -> None:
    content, words = BAD[case]
    path = write(tmp_path / "v.txt", content)
    with pytest.raises(LmzooError, match=words) as caught:
        VectorFile(path).find(["x", "nowhere"])
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_and_folders(tmp_path: Path) -> None:
    with pytest.raises(LmzooError, match=r"nowhere.txt cannot be read \(No such file"):
        VectorFile(tmp_path / "nowhere.txt")
    with pytest.raises(LmzooError, match="is a folder"):
        VectorFile(tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_cut_off_packing(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0)
    rows = [f"w{i} {' '.join(map(str, random.random(20)))}" for i in range(2000)]
    path = write(tmp_path / f"v{suffix}", "\n".join(rows).encode())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LmzooError, match=rf"v{suffix} is damaged and cannot be unpacked"):
        VectorFile(path).find(["w1999"])


def test_memory_is_that_of_the_words_asked_for(tmp_path: Path) -> None:
    rows = b"".join(b"w%d %s\n" % (i, b" ".join([b"0.125"] * 100)) for i in range(20_000))
    path = write(tmp_path / "v.txt", rows)
    tracemalloc.start()
    found = VectorFile(path).find([f"w{i}" for i in range(0, 20_000, 400)] + ["nowhere"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 50
    assert peak < 1_000_000 < path.stat().st_size / 10


def test_progress_runs_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "v.txt", b"".join(b"w%d 1 2 3\n" % i for i in range(5000)))
    told: list[float] = []

    class Bar(io.StringIO):
        def __init__(self, description: str, total: float) -> None:
            super().__init__()
            assert (description, total) == ("reading v.txt", path.stat().st_size)

        def __enter__(self):
            return told.append

    monkeypatch.setattr(room, "progress", Bar)
    VectorFile(path).find(["nowhere"])
    assert len(told) == 5
    assert 0.9 * path.stat().st_size < sum(told) <= path.stat().st_size
