"""Corpus files: what is read out of them, and what is refused."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest

from lmzoo.errors import LmzooError
from lmzoo.text.readers import Document, read_documents, resolve_paths

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def _write(path: Path, content: str | bytes) -> Path:
    content = content.encode() if isinstance(content, str) else content
    packing = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix)
    path.write_bytes(packing(content) if packing else content)
    return path


def _texts(*paths: Path) -> list[str]:
    return [document.text for document in read_documents(paths)]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.xz"])
def test_txt(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"a{suffix}", "\n\nOne.\n Two. \n\n   \n第三。\n\u3000\nFour.")
    assert list(read_documents([path])) == [
        Document("One.\n Two. ", f"{path}:3"),
        Document("第三。", f"{path}:7"),
        Document("Four.", f"{path}:9"),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz"])
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
    paths = [_write(tmp_path / "a.txt.gz", "One.\n\nTwo." * 99), _write(tmp_path / "b.txt", "Three.")]
    told: list[int] = []
    documents = list(read_documents(paths, told.append))
    assert documents[-1].text == "Three."
    assert sum(told) == sum(path.stat().st_size for path in paths)
    assert min(told) >= 0


BAD_CONTENT = {
    "empty.txt": (b"", "empty.txt holds no text"),
    "blank.txt": (b" \n\n \n", "blank.txt holds no text"),
    "blank.jsonl.gz": (b'{"text": " "}\n', "blank.jsonl.gz holds no text"),
    "latin.txt": ("one\n\ncafé\n".encode("latin-1"), r"latin.txt:3 is not UTF-8 \(byte 0xe9 at column 4\)"),
    "utf16.txt": ("one\n".encode("utf-16"), "utf16.txt:1 is not UTF-8"),
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


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "not packed", "nothing"])
def test_damaged_packing(tmp_path: Path, suffix: str, damage: str) -> None:
    path = _write(tmp_path / f"a.txt{suffix}", "".join(f"Line {n}.\n" for n in range(5000)))
    packed = bytearray(path.read_bytes())
    if damage == "flipped":
        packed[len(packed) // 2] ^= 0xFF
    changed = {"cut": packed[:-20], "flipped": packed, "not packed": b"One.\n", "nothing": b""}[damage]
    path.write_bytes(changed)
    with pytest.raises(LmzooError, match=rf"a.txt{suffix} (is damaged|holds no text)"):
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
}


@pytest.mark.parametrize("name", BAD_PATHS)
def test_refused_paths(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    _write(tmp_path / "a.csv", "x")
    _write(tmp_path / "a.zip", "x")
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
