"""Packed files as streams of bytes: ``.gz``, ``.xz``, ``.zst``.

A few bytes may unpack to terabytes (a decompression bomb), so that every packed file has a bound.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lmzoo.errors import LmzooError

_UNPACK: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
PACKINGS = (*_UNPACK, ".zst")
_CHUNK = 2**11
"""Packed bytes of Zstandard unpacked at a time: few, because they may unpack to 32,000 times as many."""
_BUFFER = 2**16
MOST_TIMES = 100
"""A packed file may unpack to so many times its size; text seldom reaches a tenth of that."""
LEAST_BOUND = 2**28
"""Bytes that any packed file may unpack to, however small it is."""


def unpacked_bound(path: Path, max_bytes: float | None) -> float:
    """Bytes that a packed file may unpack to: ``max_bytes``, or what its own size allows."""
    return max(LEAST_BOUND, MOST_TIMES * path.stat().st_size) if max_bytes is None else max_bytes


def too_much(path: Path, bound: float, max_bytes: float | None) -> LmzooError:
    """What is said of a file that unpacks to more than ``bound`` bytes."""
    if max_bytes is None:
        return LmzooError(
            f"{path} unpacks to more than {bound:,.0f} bytes, {MOST_TIMES} times its size or more: a "
            "decompression bomb? If it is meant, unpack it yourself (a corpus: or set data.max_bytes=)"
        )
    return LmzooError(
        f"{path} unpacks to more than data.max_bytes={bound:,.0f}; raise it if the file is meant to be so large"
    )


@contextmanager
def open_unpacked(path: Path, max_bytes: float | None = None) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file's bytes, unpacked if its suffix says that they are packed.

    Args:
        path: the file.
        max_bytes: the most that it may unpack to, if it is packed; without it, a hundred times its size on
            disk and 256 MiB at least.

    Yields:
        the bytes, and the file as it lies on disk, whose ``tell()`` is how much of it has been read.

    Raises:
        LmzooError: the file cannot be read, is damaged or cut off, or unpacks to more than it may; while the
            block reads it, too.
    """
    try:
        with path.open("rb") as raw:
            if path.suffix not in PACKINGS:
                yield raw, raw
                return
            unpacked = _Zstandard(raw, path) if path.suffix == ".zst" else _UNPACK[path.suffix](raw)
            yield io.BufferedReader(_Bounded(unpacked, path, max_bytes), _BUFFER), raw
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise LmzooError(f"{path} is damaged and cannot be unpacked ({error}); fetch it again") from None
    except OSError as error:
        raise LmzooError(f"{path} cannot be read ({error.strerror})") from None


class _Bounded(io.RawIOBase):
    """Passes on what is unpacked, up to a bound."""

    def __init__(self, unpacked: Any, path: Path, max_bytes: float | None) -> None:
        self._unpacked = unpacked
        self._path = path
        self._max_bytes = max_bytes
        self._bound = unpacked_bound(path, max_bytes)
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._unpacked.readinto(buffer)
        self._count += count
        if self._count > self._bound:
            raise too_much(self._path, self._bound, self._max_bytes)
        return count


class _Zstandard(io.RawIOBase):
    """Frames of Zstandard, one after the other. Its library's own stream ends quietly where a file is cut."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise LmzooError(f"{path}: reading .zst needs the extra hub: pip install 'lmzoo[hub]'") from None
        self._raw = raw
        self._error = zstandard.ZstdError
        self._unpacker = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._waiting = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            if not self._unpack():
                return 0
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count

    def _unpack(self) -> bool:
        """Unpack the next bytes, which may give nothing; False at the end of the file."""
        packed = self._waiting or self._raw.read(_CHUNK)
        self._waiting = b""
        if not packed:
            if self._frame is not None:
                raise EOFError("it ends inside a frame")
            return False
        if self._frame is None:
            self._frame = self._unpacker.decompressobj()
        try:
            self._unpacked = memoryview(self._frame.decompress(packed))
        except self._error as error:
            raise EOFError(str(error)) from None
        if self._frame.eof:
            self._waiting = self._frame.unused_data
            self._frame = None
        return True
