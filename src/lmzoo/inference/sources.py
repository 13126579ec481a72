"""Where a command's texts come from: an argument, a file or standard input; and a bar while they are read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lmzoo.errors import LmzooError
from lmzoo.progress import progress

SECONDS_WITHOUT_BAR = 2.0
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Texts:
    """What a command is to work on."""

    texts: Iterator[str]
    total: int | None
    """How many there are, if that is known."""


def given_texts(text: str | None, file: str | None) -> Texts:
    """One text from the command line, or one a line from a file or from standard input.

    An empty line is an empty text, so that lines keep their numbers.

    Raises:
        LmzooError: both are given, or none and standard input is a terminal; a file that cannot be read;
            while they are read, a line that is not UTF-8.
    """
    if text is not None and file is not None:
        raise LmzooError("text= and file= are both given; leave one out")
    if text is not None:
        return Texts(iter([text]), 1)
    if file is not None:
        path = Path(file).expanduser()
        return Texts(_file_lines(path), _count_lines(path))
    if sys.stdin is None or sys.stdin.isatty():
        raise LmzooError("there is no text: give text=, or file=, or lines on standard input")
    return Texts(_decoded(sys.stdin.buffer, "standard input"), None)


def one_text(text: str | None, file: str | None) -> str:
    """The whole of a file or of standard input as one text, where ``text`` is not given.

    Raises:
        LmzooError: as ``given_texts``; or there is nothing in it.
    """
    joined = "\n".join(given_texts(text, file).texts)
    if not joined.strip():
        raise LmzooError("the text is empty; give text=, or file=, or lines on standard input")
    return joined


def _file_lines(path: Path) -> Iterator[str]:
    with _opened(path) as file:
        yield from _decoded(file, str(path))


def _count_lines(path: Path) -> int:
    with _opened(path) as file:
        count, last = 0, b"\n"
        while block := file.read(2**20):
            count += block.count(b"\n")
            last = block[-1:]
        return count + (last != b"\n")


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise LmzooError(f"file={path} cannot be read ({error.strerror})") from None


def _decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        raw = line.removeprefix(_BOM) if number == 1 else line
        try:
            yield raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise LmzooError(
                f"{source}, line {number}: not UTF-8 text; unpack or convert it first, "
                "as in gzip -dc FILE | lmzoo …"
            ) from None


@contextmanager
def slow_progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar that appears on a terminal once the block has taken two seconds; yields ``advance(count)``."""
    began = time.monotonic()
    done = 0
    with ExitStack() as stack:
        bar: Callable[[float], None] | None = None

        def advance(count: int) -> None:
            nonlocal done, bar
            done += count
            if bar is not None:
                bar(count)
            elif time.monotonic() - began > SECONDS_WITHOUT_BAR:
                bar = stack.enter_context(progress(description, total))
                bar(done)

        yield advance
