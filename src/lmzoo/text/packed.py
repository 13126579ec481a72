"""Packed files as streams of bytes: ``.gz``, ``.xz``, ``.zst``."""

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
_CHUNK = 2**14
"""Packed bytes unpacked at a time: few, because they may unpack to thousands of times as many."""


@contextmanager
def open_unpacked(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A file's bytes, unpacked if its suffix says that they are packed.

    Yields:
        the bytes, and the file as it lies on disk, whose ``tell()`` is how much of it has been read.

    Raises:
        LmzooError: the file cannot be read, or is damaged or cut off; while the block reads it, too.
    """
    try:
        with path.open("rb") as raw:
            if path.suffix == ".zst":
                yield io.BufferedReader(_Zstandard(raw, path)), raw
            else:
                unpack = _UNPACK.get(path.suffix)
                yield unpack(raw) if unpack else raw, raw
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise LmzooError(f"{path} is damaged and cannot be unpacked ({error}); fetch it again") from None
    except OSError as error:
        raise LmzooError(f"{path} cannot be read ({error.strerror})") from None


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
