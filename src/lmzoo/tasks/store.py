"""A bounded folder of features: (units, L, D) float16 a file; what was used longest ago goes first."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from lmzoo.errors import LmzooError
from lmzoo.inference.sinks import whole

_STALE_SECONDS = 86400
"""Age of what a killed process left half-written."""


class FeatureStore:
    """A folder of features that never takes more than its room."""

    def __init__(self, folder: Path, gigabytes: float) -> None:
        self.folder = folder
        self.room = int(min(gigabytes, 2.0**30) * 2**30)  # inf too

    def open(
        self, name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], object], what: str = ""
    ) -> np.ndarray | None:
        """The features of this name, read-only; filled first where they are not there.

        Args:
            name: a hash of all that decides them.
            shape: theirs.
            fill: called with an array of zeros of that shape.
            what: for people, written beside them.

        Returns:
            None where they are larger than the whole room, and then ``fill`` is not called.

        Raises:
            LmzooError: the folder cannot be written to.
        """
        path, index = self.folder / f"{name}.npy", self.folder / f"{name}.json"
        found = self._opened(path, index, shape)
        if found is not None:
            return found
        size = int(np.prod(shape)) * 2 + 4096
        if size > self.room or not np.prod(shape):
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.make_room(size)
            with whole(path) as beside:
                target = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float16, shape=shape)
                with beside.open("r+b") as file:  # a full disk is told here, and not by a signal later
                    os.posix_fallocate(file.fileno(), 0, beside.stat().st_size)
                fill(target)
                target.flush()
                del target
            with whole(index) as beside:
                described = {"shape": list(shape), "dtype": "float16", "of": what, "made": time.time()}
                beside.write_text(json.dumps(described) + "\n", encoding="utf-8")
        except OSError as error:
            raise LmzooError(
                f"features cannot be kept in {self.folder} ({error.strerror}); give another cache_dir=, or "
                "features_gigabytes=0 to compute them in every epoch"
            ) from error
        return self._opened(path, index, shape)

    def _opened(self, path: Path, index: Path, shape: tuple[int, ...]) -> np.ndarray | None:
        try:
            described = json.loads(index.read_text(encoding="utf-8"))
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if tuple(described["shape"]) != tuple(shape) or found.shape != tuple(shape):
                return None
            now = time.time_ns()  # a file system's own clock may stand still between two uses
            os.utime(path, ns=(now, now))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def make_room(self, size: int) -> None:
        """Delete what was used longest ago until ``size`` more bytes fit."""
        now = time.time()
        for leftover in self.folder.glob(".*"):  # of a killed process
            with suppress(OSError):
                if now - leftover.stat().st_mtime > _STALE_SECONDS:
                    leftover.unlink()
        entries = []
        for path in self.folder.glob("*.npy"):
            with suppress(OSError):
                entries.append((path.stat().st_mtime, path.stat().st_size, path))
        taken = sum(length for _, length, _ in entries)
        for _, length, path in sorted(entries):
            if taken + size <= self.room:
                break
            with suppress(OSError):
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()
            taken -= length
