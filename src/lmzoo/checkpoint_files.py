"""Checkpoints on disk: whole or not there, with a checksum over every byte, and without code.

A checkpoint is the file that ``torch.save`` writes, and ``torch.load`` opens it as ever. That is a zip
archive, and the archive's comment, the last bytes of the file, is the checksum of all the rest: one file,
which one move puts in its place, and no second one that could fail to fit it.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lmzoo.disk import remove, whole_file
from lmzoo.errors import LmzooError
from lmzoo.hub.files import unpickle
from lmzoo.sharded_files import LAST_NAME, PREVIOUS_NAME, read_whole

_MARK = b"lmzoo-blake2b:"
_END = b"PK\x05\x06"
_END_SIZE = 22
"""Of what ends a zip archive without a comment; its last two bytes are the length of the comment, 0."""
_COMMENT_SIZE = len(_MARK) + 32
_TRAILER = struct.pack("<H", _COMMENT_SIZE) + _MARK
_CHUNK = 1 << 24


def write_checkpoint_file(path: Path, content: Any, predecessor: Path | None = None) -> None:
    """Write a checkpoint in the place of the one that stands there, which stays until the new one is whole.

    Args:
        path: where.
        content: tensors and plain containers.
        predecessor: where to keep the one that stood there.

    Raises:
        OSError: the disk does not take it.
    """
    with whole_file(path, predecessor) as file:
        hashed = _Hashed(file)
        torch.save(content, cast(Any, hashed))
        hashed.finish()


class _Hashed:
    """A file that hashes what is written. What the disk refuses is raised at the end only: a torch that is
    interrupted while it writes raises something else instead."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sum = hashlib.blake2b(digest_size=16)
        self._last = b""
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as content:
            if self._error is None:
                try:
                    self._file.write(content)
                except OSError as error:
                    self._error = error
            self._sum.update(content)
            self._last = (self._last + bytes(content[-_END_SIZE:]))[-_END_SIZE:]
            return len(content)

    def flush(self) -> None:
        """Nothing yet: the whole file is brought to the disk at once."""

    def finish(self) -> None:
        """Append the checksum, as the archive's comment."""
        if self._error is not None:
            raise self._error
        if not (self._last.startswith(_END) and self._last.endswith(b"\0\0")):
            raise RuntimeError("torch.save ends its files otherwise than lmzoo knows")
        self._file.seek(-2, os.SEEK_CUR)
        self._file.write(_TRAILER + self._sum.hexdigest().encode())


def read_checkpoint_file(path: Path) -> Any:
    """What a checkpoint holds, in the memory of the CPU, once every byte has been checked.

    Raises:
        LmzooError: it is not there, is cut short, has changed since it was written, or carries code.
    """
    if not path.exists():
        raise LmzooError(f"{path} is not there")
    try:
        checked = _fits(path)
    except OSError as error:
        raise LmzooError(f"{path} cannot be read ({error.strerror})") from error
    return unpickle(path, checked=checked, advice="")


def _fits(path: Path) -> bool:
    """True where the checksum fits, False where there is none, as in files of ``torch.save`` itself.

    Raises:
        LmzooError: it does not fit, or the file ends otherwise than a checkpoint does.
    """
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        if _tail(file, length, _END_SIZE).startswith(_END) and _tail(file, length, 2) == b"\0\0":
            return False
        ending = _tail(file, length, 2 + _COMMENT_SIZE)
        if not ending.startswith(_TRAILER):
            raise LmzooError(f"{path} is damaged (it is cut short, or its end has changed)")
        total = hashlib.blake2b(digest_size=16)
        file.seek(0)
        left = length - len(ending)
        while left > 0:
            content = file.read(min(_CHUNK, left))
            total.update(content)
            left -= len(content)
        total.update(b"\0\0")  # where the length of the comment stands now
        if total.hexdigest().encode() != ending[len(_TRAILER) :]:
            raise LmzooError(f"{path} is damaged (its checksum does not fit)")
    return True


def _tail(file: BinaryIO, length: int, count: int) -> bytes:
    file.seek(max(length - count, 0))
    return file.read(count)


@dataclass
class Saved:
    """A checkpoint that has been read and checked, for a run to go on from."""

    path: Path
    content: dict[str, Any]

    @property
    def steps(self) -> int:
        """Steps that the run had made."""
        return int(self.content["ledger"]["steps"])


class WholeCheckpoints(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints here.

    ``last.ckpt`` leaves the one before it as ``previous.ckpt``.

    Args:
        saved: read already, and not read again: its content is handed on, and held no longer.
        keep_last: whether what stands as ``last.ckpt`` now is good, and may become ``previous.ckpt``.
    """

    def __init__(self, saved: Saved | None = None, keep_last: bool = True) -> None:
        super().__init__()
        self._saved = saved
        self._keep_last = keep_last

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_last = path.name == LAST_NAME
        predecessor = path.with_name(PREVIOUS_NAME) if is_last and self._keep_last else None
        if path.is_dir() and predecessor is None:  # a file cannot take a folder's place in one move
            remove(path)
        write_checkpoint_file(path, checkpoint, predecessor)
        self._keep_last = self._keep_last or is_last

    def load_checkpoint(
        self, path: Any, map_location: Callable | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load onto the CPU, whatever ``map_location`` is, and tensors and plain containers alone.

        A folder of shards becomes what one file would hold.
        """
        if Path(path).is_dir():
            return read_whole(Path(path))
        if self._saved is None or self._saved.path != Path(path) or not self._saved.content:
            return read_checkpoint_file(Path(path))
        content, self._saved.content = self._saved.content, {}
        return content
