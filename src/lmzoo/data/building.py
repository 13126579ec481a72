"""A store in the making: the folder in which shards are finished one by one, by any number of processes.

Beside the store ``HASH`` that it is to become lie::

    HASH.building/
        tokenizer.json
        plan.json                 where the shards end among the files; written when the tokenizer is whole
        shards/00000/             a finished shard: its parts, and
            shard.json            its files with their checksums
        shards/00001.HOST-PID/    one in work, renamed when it is finished
    HASH.locks/                   what tells processes of each other; who dies lets go of all locks

A finished shard, and the plan, are gone on with after any interruption: the hash in the folder's name is of
all that decides what they hold. What was in work is not.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmzoo.data.corpus import Corpus
from lmzoo.data.encoding import encode
from lmzoo.data.integrity import StoreDamage, entries, read_manifest, sync, write_manifest
from lmzoo.errors import LmzooError
from lmzoo.progress import console
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer

KEPT_SECONDS = 7 * 86_400
"""How long an interrupted preparation is kept for who would go on with it."""
CHANGED = "the text, or its tokenizer, was changed while it was read; run again when it is at rest"


@dataclass(frozen=True)
class Building:
    """Where a store is made.

    Args:
        stores: the folder of all stores.
        name: the store's hash.
    """

    stores: Path
    name: str

    @property
    def folder(self) -> Path:
        return self.stores / f"{self.name}.building"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    def shard(self, number: int) -> Path:
        """Folder of a finished shard."""
        return self.folder / "shards" / f"{number:05d}"

    @contextmanager
    def lock(self, what: str, waiting_for: str) -> Iterator[bool]:
        """Hold a lock, which is let go however this process ends; say so before waiting for it."""
        with self.try_lock(what) as held:
            if held:
                yield True
                return
        console.print(
            f"waiting for another process that {waiting_for} …", markup=False, highlight=False, soft_wrap=True
        )
        with self._lock(what).acquire():
            yield True

    @contextmanager
    def try_lock(self, what: str) -> Iterator[bool]:
        """Hold a lock if nobody else does; yields whether it is held."""
        lock = self._lock(what)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _lock(self, what: str) -> FileLock:
        folder = self.stores / f"{self.name}.locks"
        folder.mkdir(exist_ok=True)
        return FileLock(folder / f"{what}.lock")

    def read_plan(self) -> list[int] | None:
        """Where shards end, as `Corpus.shard_ends`; None where nothing is there to go on with."""
        try:
            plan = read_manifest(self.plan)
            whole = entries(self.folder, [self.folder / name for name in plan["files"]]) == plan["files"]
        except (StoreDamage, OSError):
            return None
        return plan["ends"] if whole and plan["hash"] == self.name else None

    def write_plan(self, tokenizer: TextTokenizer, ends: list[int]) -> None:
        tokenizer.save(self.folder / "tokenizer.json")
        (self.folder / "shards").mkdir()
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        for path in files:
            sync(path)
        write_manifest(self.plan, {"hash": self.name, "ends": ends, "files": entries(self.folder, files)})

    def num_finished(self) -> int:
        """How many shards are there under their own names."""
        return sum("." not in path.name for path in self.folder.glob("shards/*"))

    def read_shard(self, number: int) -> dict[str, Any] | None:
        """What `finish_shard` wrote of a shard; None where it is not finished, or a file of it is not whole
        by its size."""
        folder = self.shard(number)
        try:
            manifest = read_manifest(folder / "shard.json")
            sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        except (StoreDamage, OSError):
            return None
        expected = {name: entry["bytes"] for name, entry in manifest["files"].items()}
        return manifest if manifest["hash"] == self.name and sizes == expected else None

    def finish_shard(self, number: int, corpus: Corpus, advance: Callable[[int], object]) -> None:
        """Encode a shard's documents into its folder, which is there when it is whole, and not before.

        Raises:
            LmzooError: anything wrong with the text, or it was changed meanwhile.
        """
        folder = self.shard(number)
        for left in folder.parent.glob(f"{folder.name}.*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        work = folder.with_name(f"{folder.name}.{socket.gethostname()}-{os.getpid()}")
        try:
            work.mkdir()
            tokenizer = load_tokenizer(self.folder / "tokenizer.json")
            parts = encode(corpus, tokenizer, work, advance)
            if not corpus.is_at_rest():
                raise LmzooError(CHANGED)
            files = sorted(path for path in work.rglob("*") if path.is_file())
            for path in [*files, *(path for path in work.iterdir() if path.is_dir())]:
                sync(path)
            write_manifest(
                work / "shard.json", {"hash": self.name, "parts": parts, "files": entries(work, files)}
            )
            shutil.rmtree(folder, ignore_errors=True)  # one that is damaged
            work.rename(folder)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise

    def remove_unfinished(self) -> None:
        """Remove shards that nobody works at any more, and all of it where none is finished."""
        shards = self.folder / "shards"
        for work in list(shards.glob("*.*")):
            with self.try_lock(work.name.partition(".")[0]) as held:
                if held:
                    shutil.rmtree(work, ignore_errors=True)
        with self.try_lock("common") as held:
            if held and not list(shards.glob("*")):
                shutil.rmtree(self.folder, ignore_errors=True)


def build_shard(
    number: int,
    advance: Callable[[int], object],
    *,
    building: Building,
    shards: dict[int, Corpus],
    waiting: bool = False,
) -> tuple[int, bool]:
    """See to it that a shard is finished.

    Args:
        number: of the shard.
        advance: as `Corpus.read` takes it.
        building: where.
        shards: the documents of each.
        waiting: wait for another process that is at it.

    Returns:
        the number, and whether it is finished: false only where another process is at it.
    """
    name = building.shard(number).name
    with (
        building.lock(name, f"is preparing shard {number} of the same corpus")
        if waiting
        else building.try_lock(name)
    ) as held:
        if not held:
            return number, False
        # all of it may be done by now, and renamed
        if building.folder.exists() and building.read_shard(number) is None:
            building.finish_shard(number, shards[number], advance)
        else:
            advance(shards[number].total or 0)
    return number, True


def remove_leftovers(stores: Path, own: str) -> None:
    """Remove what nobody has gone on with for `KEPT_SECONDS`, and stores that were damaged and replaced.

    Args:
        stores: the folder of all stores.
        own: hash of the one that this process is making.
    """
    for leftover in stores.glob("*.building"):
        if leftover.stem == own or time.time() - _last_change(leftover) < KEPT_SECONDS:
            continue
        with Building(stores, leftover.stem).try_lock("build") as held:
            if held:
                shutil.rmtree(leftover, ignore_errors=True)
    for replaced in stores.glob("*.damaged"):
        shutil.rmtree(replaced, ignore_errors=True)


def _last_change(folder: Path) -> float:
    """Of the folder, and of every shard in it."""
    times = []
    for path in (folder, folder / "shards", *folder.glob("shards/*")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=time.time())
