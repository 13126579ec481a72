"""Files that are whole or not there at all, room for them, and one line where the disk does not take them."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lmzoo.errors import LmzooError
from lmzoo.summary import size

ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "mount it for writing, or choose another folder",
    errno.EACCES: "give yourself the permission, or choose another folder",
    errno.EPERM: "give yourself the permission, or choose another folder",
    errno.EIO: "look after the disk",
}
"""What to do about an error that the disk or the machine's owner causes; any other is a bug."""


@contextmanager
def disk_errors(where: Path, then: str = "") -> Iterator[None]:
    """Turn what the disk refuses inside the block into one line.

    Args:
        where: named where the error itself names no file.
        then: what to do afterwards, added to the advice.

    Raises:
        LmzooError: the disk is full, read-only or forbidden, or a file would be larger than is allowed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        raise LmzooError(
            f"{error.filename or where}: {error.strerror}; {ADVICE[error.errno]}{then}"
        ) from error


@contextmanager
def whole_file(path: Path, predecessor: Path | None = None) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` in one move once the block has ended well.

    Whenever the process is killed, ``path`` is either what it was before or the whole new file, on the disk.

    Args:
        path: where it shall stand.
        predecessor: where to keep what stood there until now.

    Raises:
        OSError: the disk does not take it; with the name ``path``.
    """
    beside = _beside(path)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if predecessor is not None and path.exists():
            _keep(path, predecessor)
        os.replace(beside, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.new")


def _keep(path: Path, predecessor: Path) -> None:
    beside = _beside(predecessor)
    if path.is_dir() or predecessor.is_dir():  # a folder takes no file's place, nor a file a folder's
        remove(predecessor)
    try:
        os.link(path, beside)  # a second name, so that there is a file under the first at every moment
    except OSError:  # a folder, or a disk without such links
        os.replace(path, predecessor)
        return
    os.replace(beside, predecessor)
    beside.unlink(missing_ok=True)  # replacing a name by another of the same file does nothing


def sync_folder(folder: Path) -> None:
    """Bring to the disk which names are in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have nothing to bring to the disk for a folder
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


SECONDS_FOR_ORPHANS = 10.0
"""How long a run folder may still be held by what a killed run has left: processes that read data for it see
within a few seconds that it is gone."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep every other process from training in ``folder`` as long as the block lasts, or this process lives.

    Raises:
        LmzooError: another one does.
    """
    try:
        file = (folder / "config.yaml").open("rb")
    except FileNotFoundError:  # no run of the command, so nobody can go on with it
        yield
        return
    with file:
        deadline = time.monotonic() + SECONDS_FOR_ORPHANS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LmzooError(
                        f"another process trains in {folder}; wait for its end, or end it"
                    ) from None
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield


LEFTOVERS = (".*.new", "checkpoints/.*.new", "checkpoints/.step-*", "nonfinite/.*.new", ".model.*")
"""Names under which files and folders of a run are built; only a killed process leaves them."""


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in a run folder."""
    for pattern in LEFTOVERS:
        for leftover in folder.glob(pattern):
            remove(leftover)


def try_to_write(folder: Path) -> None:
    """Make a file in a folder, and remove it. Raises OSError where that cannot be done."""
    probe = _beside(folder / "probe")
    try:
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        error.filename = str(folder)
        raise


def refuse_without_room(folder: Path, parameter_bytes: int, exports: int = 1) -> None:
    """Refuse a run whose files will not fit, before it has cost anything.

    A checkpoint holds the weights and at most two moments of each. Three are kept (last, previous, best)
    while a fourth is written, and each export holds the weights once more.

    Args:
        folder: the run's.
        parameter_bytes: of all weights.
        exports: how many the run writes: one at its end, and those of ``checkpoint.log_spaced``.

    Raises:
        LmzooError: too little room, or too low a limit on the size of a file.
    """
    checkpoint = 3 * parameter_bytes
    there = sum(
        path.stat().st_size for name in ("checkpoints", "model") for path in (folder / name).rglob("*")
        if path.is_file()
    )  # fmt: skip
    needed = 4 * checkpoint + exports * parameter_bytes - there
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LmzooError(
            f"{folder} is on a disk with {size(free)} free, and the run needs {size(needed)}: four "
            f"checkpoints of {size(checkpoint)} and {'an export' if exports == 1 else f'{exports} exports'}; "
            "make room, or choose another hydra.run.dir="
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < checkpoint:
        raise LmzooError(
            f"files may have {size(limit)} here (ulimit -f), and a checkpoint of this run has "
            f"{size(checkpoint)}; raise the limit"
        )
