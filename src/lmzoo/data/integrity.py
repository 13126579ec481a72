"""Whether a store's files are as they were written: checksums, manifests that know their own, and when each
file was last looked at."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.progress import progress

FORMAT = 2
"""Version of the layout of stores; part of every store's hash."""
CHECKED_BYTES = 2**30
"""What an opening reads in full, about a second's work: a store up to this size, or this much of a larger."""
_CHUNK = 2**20
_NO_BAR = nullcontext(lambda amount: None)


class StoreDamage(LmzooError):
    """A file of a store is not as it was written. The store can be made anew from its text."""

    path: Path
    """The file."""


def damage(path: Path, what: str) -> StoreDamage:
    error = StoreDamage(f"the prepared corpus is damaged: {path} {what}")
    error.path = path
    return error


# ---------------------------------------------------------------------------------- files and folders


def new_digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def checksum(path: Path, told: Callable[[int], object] = lambda amount: None) -> str:
    """blake2b of a file's content; ``told`` hears how many more bytes have been read."""
    digest = new_digest()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            told(len(chunk))
    return digest.hexdigest()


def entries(folder: Path, paths: list[Path]) -> dict[str, dict[str, Any]]:
    """What a manifest says of files, by their names within ``folder``: their bytes and checksums."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "blake2b": checksum(path)}
        for path in paths
    }


def sync(path: Path) -> None:
    """Bring a file's or a folder's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------- manifests


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all, with the format and a checksum of itself in it."""
    content = {"format": FORMAT, **content}
    content = {**content, "blake2b": _digest_of(content)}
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def read_manifest(path: Path) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises:
        StoreDamage: the file is missing, of another format, cut short or changed.
    """
    try:
        content = json.loads(path.read_bytes())
        found = content.get("format")
    except FileNotFoundError:
        raise damage(path, "is missing") from None
    except (ValueError, AttributeError, RecursionError):
        raise damage(path, "cannot be read") from None
    if found != FORMAT:
        raise damage(path, f"has format {found} where this version of lmzoo reads {FORMAT}")
    if content.pop("blake2b", None) != _digest_of(content):
        raise damage(path, "has changed since it was written")
    return content


def _digest_of(content: dict[str, Any]) -> str:
    digest = new_digest()
    digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------- checking


def verify(folder: Path, files: Mapping[str, Any]) -> None:
    """Check that every file is there and as it was written.

    Sizes are always compared. Contents are too, of everything where that is at most ``CHECKED_BYTES``. Of
    a larger store every opening reads what has never been read or has another time or size than then,
    and of the rest about ``CHECKED_BYTES``, those first that were read longest ago: so a bit that turned over
    on the disk is found after some openings at the latest. When each was read is kept beside the store.

    Args:
        folder: of the store.
        files: by name within it, what `entries` gave when they were written.

    Raises:
        StoreDamage: naming the file that is missing, cut short or changed.
    """
    known = _read_record(folder)
    read_before: dict[str, float] = {}
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise damage(path, "is missing")
        stat = path.stat()
        if stat.st_size != entry["bytes"]:
            raise damage(path, f"has {stat.st_size:,} bytes instead of {entry['bytes']:,}")
        size, changed, when = known.get(name, (None, None, 0.0))
        read_before[name] = when if (size, changed) == (stat.st_size, stat.st_mtime_ns) else 0.0
    chosen, room = [], CHECKED_BYTES
    for name in sorted(files, key=lambda name: read_before[name]):
        if read_before[name] == 0.0 or not chosen or files[name]["bytes"] <= room:
            chosen.append(name)
            room -= files[name]["bytes"]
    total = sum(files[name]["bytes"] for name in chosen)
    bar = progress("checking the prepared corpus", total) if total > CHECKED_BYTES // 4 else _NO_BAR
    with bar as advance:
        for name in chosen:
            if checksum(folder / name, advance) != files[name]["blake2b"]:
                raise damage(folder / name, "has changed since it was written")
    remember(folder, files, read_before | dict.fromkeys(chosen, time.time()))


def remember(folder: Path, files: Mapping[str, Any], read: Mapping[str, float] | None = None) -> None:
    """Keep when each file was read in full: now, unless ``read`` says otherwise. Small stores need no memory,
    and a cache that cannot be written goes without."""
    if sum(entry["bytes"] for entry in files.values()) <= CHECKED_BYTES:
        return
    now = time.time()
    record = {}
    for name in files:
        stat = (folder / name).stat()
        record[name] = [stat.st_size, stat.st_mtime_ns, now if read is None else read[name]]
    path = _record_of(folder)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(record), encoding="utf-8")
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()


def _record_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.checked.json")


def _read_record(folder: Path) -> dict[str, tuple[int, int, float]]:
    try:
        found = json.loads(_record_of(folder).read_bytes())
        return {name: (int(size), int(time), float(when)) for name, (size, time, when) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
