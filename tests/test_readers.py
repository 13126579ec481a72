"""Corpus files: what is read out of them, and what is refused."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lmzoo.errors import LmzooError
from lmzoo.text.readers import Document, read_documents, resolve_paths

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def _zstandard(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(content)


def _write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    packing = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": _zstandard}.get(path.suffix)
    path.write_bytes(packing(content) if packing else content)
    return path


def _parquet(path: Path, texts: list, column: str = "text", kind: str = "string", **settings) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kinds = {"dictionary": pa.dictionary(pa.int32(), pa.string())}
    values = pa.array(texts, type=kinds.get(kind) or getattr(pa, kind)())
    pq.write_table(pa.table({"id": list(range(len(texts))), column: values}), path, **settings)
    return path


def _texts(*paths: Path) -> list[str]:
    return [document.text for document in read_documents(paths)]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.xz", ".txt.zst"])
def test_txt(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"a{suffix}", "\n\nOne.\n Two. \n\n   \n第三。\n\u3000\nFour.")
    assert list(read_documents([path])) == [
        Document("One.\n Two. ", f"{path}:3"),
        Document("第三。", f"{path}:7"),
        Document("Four.", f"{path}:9"),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst"])
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "One.\n\nStill one."}, {"text": " \n"}, {"id": 3, "text": "第二 🙂"}]
    path = _write(tmp_path / f"a{suffix}", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert list(read_documents([path])) == [
        Document("One.\n\nStill one.", f"{path}:1"),
        Document("第二 🙂", f"{path}:3"),
    ]


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", "\ufeffOne.\r\nTwo.\r\n\r\nThree.\r\n")
    assert _texts(path) == ["One.\nTwo.", "Three."]
    path = _write(tmp_path / "a.jsonl", '\ufeff{"text": "One."}\r\n\r\n{"text": "Two."}\r\n')
    assert _texts(path) == ["One.", "Two."]


def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x0cc\x85d"
    assert _texts(_write(tmp_path / "a.txt", text)) == [text]


def test_files_in_order_and_progress(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    paths = [
        _write(tmp_path / "a.txt.gz", "One.\n\nTwo." * 99),
        _write(tmp_path / "b.txt.zst", "\n\n".join(map(str, random.integers(0, 10**9, 20_000)))),
        _parquet(tmp_path / "c.parquet", [f"Text {i}." for i in range(500)]),
        _write(tmp_path / "d.txt", "Three."),
    ]
    told: list[int] = []
    documents = list(read_documents(paths, told.append))
    assert documents[-1].text == "Three."
    assert len([amount for amount in told if amount]) > 10
    assert sum(told) == sum(path.stat().st_size for path in paths)
    assert min(told) >= 0


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    texts = ["One.\n\nStill one.", " \n", "第二 🙂", "nul \0"] + [f"{i}" for i in range(300)]
    path = _parquet(tmp_path / "a.parquet", texts, kind=kind, row_group_size=70)
    documents = list(read_documents([path]))
    assert documents[:3] == [
        Document("One.\n\nStill one.", f"{path}:1"),
        Document("第二 🙂", f"{path}:3"),
        Document("nul \0", f"{path}:4"),
    ]
    assert [document.text for document in documents[3:]] == texts[4:]


def test_the_column_of_the_text(tmp_path: Path) -> None:
    paths = [
        _parquet(tmp_path / "a.parquet", ["One."], column="body"),
        _write(tmp_path / "b.jsonl", '{"text": "no", "body": "Two."}\n'),
        _write(tmp_path / "c.txt", "Three."),
    ]
    assert [document.text for document in read_documents(paths, column="body")] == ["One.", "Two.", "Three."]
    with pytest.raises(LmzooError, match=r"b.jsonl:1 has no text; .* string field 'title'"):
        list(read_documents(paths[1:], column="title"))


def test_parquet_is_read_some_rows_at_a_time(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    held = {}
    for count in (1_000, 10_000):
        random = np.random.default_rng(0)
        texts = [random.bytes(1000).hex() for _ in range(count)]
        # one row group: what a reader that takes it whole would hold grows with the file
        path = _parquet(tmp_path / f"{count}.parquet", texts, row_group_size=count, use_dictionary=False)
        before, held[count] = pa.total_allocated_bytes(), 0
        for _ in read_documents([path]):
            held[count] = max(held[count], pa.total_allocated_bytes() - before)
    assert held[10_000] < 2 * held[1_000] < 10_000_000 < (tmp_path / "10000.parquet").stat().st_size


def test_zstandard_of_several_frames(tmp_path: Path) -> None:
    frames = [b"", b"One.\n", b"Two.\n\nThr", "ee. 三\n".encode()]
    path = _write(tmp_path / "a.txt", b"".join(map(_zstandard, frames)))
    path = path.rename(tmp_path / "a.txt.zst")
    assert _texts(path) == ["One.\nTwo.", "Three. 三"]


def test_zstandard_is_unpacked_piece_by_piece(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt.zst", "".join(f"{i**5} line\n\n" for i in range(50_000)))
    tracemalloc.start()
    assert sum(1 for _ in read_documents([path])) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000  # of a text of more than a million bytes


@pytest.mark.parametrize(("name", "module"), [("a.txt.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch, name: str, module: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"{name}: reading .* needs the extra hub: pip install 'lmzoo\[hub\]'"
    with pytest.raises(LmzooError, match=message):
        list(read_documents([tmp_path / name]))


BAD_PARQUET = {
    "no such column": (
        {"column": "body"},
        "no column 'text'; its columns are id, body: name one",
    ),
    "numbers": ({"texts": [1, 2], "kind": "int64"}, "no text in its column 'text', but values of type int64"),
    "bytes": ({"texts": [b"a"], "kind": "binary"}, "no text in its column 'text', but values of type binary"),
    "nothing": ({"texts": ["a"] * 100 + [None]}, "a.parquet: row 101 has no text in its column 'text'"),
    "blank": ({"texts": [" ", ""]}, "a.parquet holds no text"),
    "no rows": ({"texts": []}, "a.parquet holds no text"),
}


@pytest.mark.parametrize("case", BAD_PARQUET)
def test_refused_parquet(tmp_path: Path, case: str) -> None:
    given, message = BAD_PARQUET[case]
    path = _parquet(tmp_path / "a.parquet", **({"texts": ["One."]} | given))
    with pytest.raises(LmzooError, match=message) as caught:
        list(read_documents([path]))
    assert "\n" not in str(caught.value)


def test_parquet_that_is_not_utf8(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "a.parquet", [f"text {i}" for i in range(100)], use_dictionary=False,
                    compression="none", write_statistics=False)  # fmt: skip
    content = path.read_bytes()
    assert content.count(b"text 77") == 1
    path.write_bytes(content.replace(b"text 77", b"text\xff77"))
    with pytest.raises(LmzooError, match=r"a.parquet: row 78 is not UTF-8"):
        list(read_documents([path]))


@pytest.mark.parametrize("damage", ["cut", "flipped", "not packed", "nothing"])
def test_damaged_parquet(tmp_path: Path, damage: str) -> None:
    random = np.random.default_rng(0)
    texts = [random.bytes(100).hex() for _ in range(500)]
    path = _parquet(tmp_path / "a.parquet", texts, compression="zstd", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100) if damage == "flipped" else content[2000:2100]
    path.write_bytes({"cut": content[:-20], "not packed": b"One.", "nothing": b""}.get(damage, content))
    with pytest.raises(LmzooError, match=r"a.parquet is no Parquet file, or a damaged one \(.*\); fetch"):
        list(read_documents([path]))


BAD_CONTENT = {
    "empty.txt": (b"", "empty.txt holds no text"),
    "blank.txt": (b" \n\n \n", "blank.txt holds no text"),
    "blank.jsonl.gz": (b'{"text": " "}\n', "blank.jsonl.gz holds no text"),
    "latin.txt": ("one\n\ncafé\n".encode("latin-1"), r"latin.txt:3 is not UTF-8 \(byte 0xe9 at column 4\)"),
    "utf16.txt": ("one\n".encode("utf-16"), "utf16.txt:1 is not UTF-8"),
    "wide.txt": ("One.\nTwo.".encode("utf-16-le"), "wide.txt:1 holds a zero byte: .* UTF-16; convert"),
    "nul.txt.zst": (b"One.\nT\0wo.\n", "nul.txt.zst:2 holds a zero byte"),
    "nul.jsonl": (b'{"text": "a"}\n{"text": "\0"}\n', "nul.jsonl:2 holds a zero byte"),
    "latin.jsonl.xz": (b'{"text": "a"}\n{"text": "caf\xe9"}\n', "latin.jsonl.xz:2 is not UTF-8"),
    "bad.jsonl": (b'{"text": "a"}\n{"text": \n', "bad.jsonl:2 is not JSON"),
    "list.jsonl": (b'["text"]\n', "list.jsonl:1 has no text"),
    "missing.jsonl": (b'{"text": "a"}\n\n{"body": "b"}\n', "missing.jsonl:3 has no text"),
    "number.jsonl": (b'{"text": 5}\n', "number.jsonl:1 has no text"),
    "surrogate.jsonl": (b'{"text": "\\ud83d"}\n', "surrogate.jsonl:1 holds half a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD_CONTENT)
def test_refused_content(tmp_path: Path, name: str) -> None:
    content, message = BAD_CONTENT[name]
    path = _write(tmp_path / name, content)
    with pytest.raises(LmzooError, match=message) as caught:
        list(read_documents([path]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "not packed", "nothing"])
def test_damaged_packing(tmp_path: Path, suffix: str, damage: str) -> None:
    path = _write(tmp_path / f"a.txt{suffix}", "".join(f"Line {n}.\n" for n in range(50_000)))
    packed = bytearray(path.read_bytes())
    if damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    changed = {"cut": packed[:-20], "flipped": packed, "not packed": b"One.\n", "nothing": b""}[damage]
    path.write_bytes(changed)
    words = "is damaged|holds no text" if damage == "nothing" else "is damaged"
    with pytest.raises(LmzooError, match=rf"a.txt{suffix} ({words})"):
        list(read_documents([path]))


def test_resolve_one_list_and_glob(tmp_path: Path) -> None:
    a, b, c = (_write(tmp_path / name, "x") for name in ("a.txt", "b.jsonl.gz", "c.txt.xz"))
    (tmp_path / "deep").mkdir()
    d = _write(tmp_path / "deep" / "d.txt", "x")
    odd = _write(tmp_path / "odd[1].txt", "x")
    assert resolve_paths(str(a), "data.train") == [a]
    assert resolve_paths(a, "data.train") == [a]
    assert resolve_paths([str(c), str(a), f"{tmp_path}/deep/../a.txt"], "data.train") == [a, c]
    assert resolve_paths(f"{tmp_path}/[abc].*", "data.train") == [a, b, c]
    assert resolve_paths(f"{tmp_path}/**/*.txt", "data.train") == [a, d, odd]
    assert resolve_paths(str(odd), "data.train") == [odd]


def test_resolve_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = _write(tmp_path / "a.txt", "x")
    assert resolve_paths("~/a.txt", "data.train") == [path]


BAD_PATHS = {
    "missing.txt": "data.train=.*missing.txt does not exist",
    "*.md": r"data.train=.*/\*.md matches no file",
    "folder": "data.train=.*folder is a folder; name its files",
    "a.csv": "data.train: .*a.csv is of an unknown kind",
    "a.zip": "data.train: .*a.zip is of an unknown kind",
    "a*": "data.train: .*a.csv is of an unknown kind",
    "packed.parquet.gz": "data.train: .*d.parquet.gz is of an unknown kind",
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_refused_paths(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    _write(tmp_path / "a.csv", "x")
    _write(tmp_path / "a.zip", "x")
    _write(tmp_path / "packed.parquet.gz", "x")
    with pytest.raises(LmzooError, match=BAD_PATHS[name]):
        resolve_paths(str(tmp_path / name), "data.train")


@pytest.mark.parametrize("given", [None, "", 5, [], [None], {"a": 1}])
def test_refused_values(given: object) -> None:
    with pytest.raises(LmzooError, match=r"data\.valid"):
        resolve_paths(given, "data.valid")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_real_books() -> None:
    path = SHARED / "pretrain" / "books.valid.txt.gz"
    documents = list(read_documents([path]))
    assert len(documents) == 40
    assert sum(len(document.text.split()) for document in documents) == 178_828
    assert documents[0].source == f"{path}:1"
