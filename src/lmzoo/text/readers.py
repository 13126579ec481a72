"""Documents out of files: plain text or JSON lines, packed or not, one at a time.

``.txt`` has a blank line between documents and one sentence or paragraph a line; ``.jsonl`` has one
object a line with the document in its field ``text``. Both may be packed: ``.gz``, ``.xz``. Only one
document is held at a time.
"""

from __future__ import annotations

import glob
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lmzoo.errors import LmzooError

_PACKINGS = {".gz": gzip.open, ".xz": lzma.open}
_SUFFIXES = "a .txt or .jsonl file, plain or packed as .gz or .xz"
_BOM = b"\xef\xbb\xbf"


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
        LmzooError: nothing given, no such file, a folder, a glob without a match, an unknown suffix.
    """
    names = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not names:
        raise LmzooError(f"{what} is an empty list; give {_SUFFIXES}")
    found: dict[Path, Path] = {}
    for name in names:
        if not isinstance(name, str | Path) or not str(name):
            raise LmzooError(f"{what}={name!r} is not a path; give {_SUFFIXES}")
        for path in _matches(Path(name).expanduser(), what):
            found.setdefault(path.resolve(), path)
    return sorted(found.values())


def read_documents(
    paths: Iterable[Path], advance: Callable[[int], object] | None = None
) -> Iterator[Document]:
    """Every document of the files, in order.

    Args:
        paths: files as `resolve_paths` gives them.
        advance: told, document by document, how many more bytes of the files (as they lie on disk,
            packed) have been read; their sizes sum to the total.

    Raises:
        LmzooError: text that is not UTF-8, a line that is not JSON or has no ``text``, a damaged
            packed file, a file without text; file and line are named.
    """
    for path in paths:
        documents = _READERS[_kind(path)]
        empty = True
        try:
            with path.open("rb") as raw:
                packing = _PACKINGS.get(path.suffix)
                lines = packing(raw) if packing else raw
                told = 0
                for document in documents(path, _numbered_lines(path, lines)):
                    empty = False
                    yield document
                    if advance is not None:
                        advance(raw.tell() - told)
                        told = raw.tell()
                if advance is not None:
                    advance(raw.tell() - told)
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise LmzooError(f"{path} is damaged and cannot be unpacked ({error}); fetch it again") from None
        except OSError as error:
            raise LmzooError(f"{path} cannot be read ({error.strerror})") from None
        if empty:
            raise LmzooError(f"{path} holds no text; leave it out or fill it")


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
        if _kind(file) not in _READERS:
            raise LmzooError(f"{what}: {file} is of an unknown kind; give {_SUFFIXES}")
    return files


def _kind(path: Path) -> str:
    """The suffix under the packing."""
    return (path.with_suffix("") if path.suffix in _PACKINGS else path).suffix


def _numbered_lines(path: Path, lines: Iterable[bytes] | IO[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(_BOM)
        try:
            yield number, line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            again = ", or fetch it again if it is damaged" if path.suffix in _PACKINGS else ""
            raise LmzooError(
                f"{path}:{number} is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1}); "
                f"convert the file to UTF-8{again}"
            ) from None


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


def _jsonl_documents(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Document]:
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LmzooError(f"{where} is not JSON ({error}); write one object a line") from None
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise LmzooError(f"{where} has no text; write one object a line with a string field 'text'")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise LmzooError(f"{where} holds half a surrogate pair, not a character; mend it") from None
        if text.strip():
            yield Document(text, where)


_READERS = {".txt": _txt_documents, ".jsonl": _jsonl_documents}
"""What reads the lines of a file, by its suffix under the packing."""
