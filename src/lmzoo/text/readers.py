"""Documents out of files: plain text, JSON lines or Parquet, one at a time.

``.txt`` has a blank line between documents and one sentence or paragraph a line; ``.jsonl`` has one
object a line with the document in its field ``text``. Both may be packed: ``.gz``, ``.xz``, ``.zst``.
``.parquet`` has one document a row, in its column ``text``. Only one document, or a few rows, are held at
a time, and what is packed is unpacked up to a bound.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from lmzoo.errors import LmzooError
from lmzoo.text.packed import PACKINGS, open_unpacked
from lmzoo.text.parquet import parquet_texts

_SUFFIXES = "a .txt or .jsonl file, plain or packed as .gz, .xz or .zst, or a .parquet file"
_BOM = b"\xef\xbb\xbf"
_PARQUET = ".parquet"


@dataclass(frozen=True)
class Document:
    """A text that belongs together; nothing is learned across its ends."""

    text: str
    source: str
    """Where it stands, for messages: ``file:line`` or ``topic NAME``."""


def resolve_paths(given: object, what: str) -> list[Path]:
    """The files that a value of the config names.

    Args:
        given: one path, a list of paths, or globs among them (``**`` goes through folders).
        what: the key that gave it, for messages, e.g. ``data.train``.

    Returns:
        Existing files without repetition, sorted.

    Raises:
        LmzooError: nothing given, no such file, a folder, a pipe or a device, a glob without a match, an
            unknown suffix, a name that no file can have.
    """
    names = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not names:
        raise LmzooError(f"{what} is an empty list; give {_SUFFIXES}")
    found: dict[Path, Path] = {}
    for name in names:
        if not isinstance(name, str | Path) or not str(name):
            raise LmzooError(f"{what}={name!r} is not a path; give {_SUFFIXES}")
        try:
            for path in _matches(Path(name).expanduser(), what):
                found.setdefault(path.resolve(), path)
        # a zero byte, nobody's home, links in a circle, a name too long, a folder that may not be looked into
        except (ValueError, RuntimeError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise LmzooError(f"{what}={_shortened(str(name))} cannot be looked for ({reason})") from None
    return sorted(found.values())


def read_documents(
    paths: Iterable[Path],
    advance: Callable[[int], object] | None = None,
    *,
    column: str = "text",
    max_bytes: float | None = None,
) -> Iterator[Document]:
    """Every document of the files, in order.

    Args:
        paths: files as `resolve_paths` gives them.
        advance: told, document by document, how many more bytes of the files (as they lie on disk,
            packed) have been read; their sizes sum to the total.
        column: the field or column that holds the text, in the kinds of files that have several.
        max_bytes: the most that a packed file may unpack to; see `packed.open_unpacked`.

    Raises:
        LmzooError: text that is not UTF-8, a line or a row without text, a damaged file, a file without
            text, one that unpacks to too much, a package that is not installed; file and line are named.
    """
    for path in paths:
        empty = True
        for document in _documents(path, advance, column, max_bytes):
            empty = False
            yield document
        if empty:
            raise LmzooError(f"{path} holds no text; leave it out or fill it")


def _documents(
    path: Path, advance: Callable[[int], object] | None, column: str, max_bytes: float | None
) -> Iterator[Document]:
    kind = _kind(path)
    if kind == _PARQUET:
        for number, text in parquet_texts(path, column, advance, max_bytes):
            if text.strip():
                yield Document(text, f"{path}:{number}")
        return
    reader = partial(_jsonl_documents, field=column) if kind == ".jsonl" else _READERS[kind]
    told = 0
    with open_unpacked(path, max_bytes) as (unpacked, raw):
        for document in reader(path, numbered_lines(path, unpacked)):
            yield document
            if advance is not None:
                advance(raw.tell() - told)
                told = raw.tell()
        if advance is not None:
            advance(raw.tell() - told)


def _matches(path: Path, what: str) -> list[Path]:
    if path.is_dir():
        raise LmzooError(f"{what}={path} is a folder; name its files, e.g. '{path}/*.txt'")
    if path.exists():
        files = [path]
    elif glob.has_magic(str(path)):
        files = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not files:
            raise LmzooError(f"{what}={path} matches no file in {Path.cwd()}")
    else:
        raise LmzooError(f"{what}={path} does not exist (looked in {Path.cwd()})")
    for file in files:
        if _kind(file) not in (*_READERS, _PARQUET):
            raise LmzooError(f"{what}: {file} is of an unknown kind; give {_SUFFIXES}")
        if not file.is_file():  # a pipe could not be read twice, and would be waited for
            raise LmzooError(f"{what}: {file} is no regular file; give {_SUFFIXES}")
    return files


def _shortened(name: str, most: int = 80) -> str:
    shown = name if len(name) <= most else f"{name[:most]}…"
    return shown if shown.isprintable() else repr(shown)


def _kind(path: Path) -> str:
    """The suffix, or under a packing the suffix of what is packed; Parquet packs itself."""
    if path.suffix not in PACKINGS:
        return path.suffix
    inner = path.with_suffix("").suffix
    return "" if inner == _PARQUET else inner


def numbered_lines(path: Path, lines: Iterable[bytes] | IO[bytes]) -> Iterator[tuple[int, str]]:
    """A file's lines in UTF-8, numbered from 1, a byte-order mark left out.

    Raises:
        LmzooError: naming file and line: it is not UTF-8.
    """
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(_BOM)
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            again = ", or fetch it again if it is damaged" if path.suffix in PACKINGS else ""
            raise LmzooError(
                f"{path}:{number} is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1}); "
                f"convert the file to UTF-8{again}"
            ) from None
        if "\0" in text:  # no text file has it, but any UTF-16 one that goes through as UTF-8
            raise LmzooError(
                f"{path}:{number} holds a zero byte: it is no text, or one in UTF-16; convert it to UTF-8"
            )
        yield number, text.removesuffix("\n").removesuffix("\r")


def _txt_documents(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Document]:
    held: list[str] = []
    first = 0
    for number, line in lines:
        if line.strip():
            first = first if held else number
            held.append(line)
        elif held:
            yield Document("\n".join(held), f"{path}:{first}")
            held = []
    if held:
        yield Document("\n".join(held), f"{path}:{first}")


def _jsonl_documents(path: Path, lines: Iterator[tuple[int, str]], field: str = "text") -> Iterator[Document]:
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LmzooError(f"{where} is not JSON ({error}); write one object a line") from None
        text = row.get(field) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise LmzooError(f"{where} has no text; write one object a line with a string field {field!r}")
        refuse_half_characters(text, where)
        if text.strip():
            yield Document(text, where)


def refuse_half_characters(text: str, where: str) -> None:
    """Refuse what no encoding can write: half a surrogate pair, which JSON can hold.

    Raises:
        LmzooError: naming ``where`` it stands.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LmzooError(f"{where} holds half a surrogate pair, not a character; mend it") from None


_READERS = {".txt": _txt_documents, ".jsonl": _jsonl_documents}
"""What reads the lines of a file, by its suffix under the packing."""
