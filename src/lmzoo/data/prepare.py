"""From texts to a store, once for every (corpus, tokenizer).

1. Describe all that decides the outcome, and hash it; a store of that hash is opened as it is.
2. Read every document, tell training from validation by a hash of its text, keep a bounded sample of the
   training part, and train the tokenizer on it (or load it).
3. Shard by shard (some files each): read again, cut into sentences, encode, write, rename into place.
4. Write an index over the shards, and rename the folder into place.

Steps 2 and 3 are shared out over processes where `data.processes` says so, and step 3 over any number of jobs
on any number of machines; neither they nor the shards leave a trace in what comes out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lmzoo.data.building import CHANGED, Building, build_shard, remove_leftovers
from lmzoo.data.config import DataConfig
from lmzoo.data.corpus import Corpus
from lmzoo.data.index import join_shards, publish
from lmzoo.data.integrity import FORMAT, StoreDamage, read_manifest
from lmzoo.data.processes import in_processes
from lmzoo.data.sampling import check_parts, make_tokenizer, total_of
from lmzoo.data.store import Store, open_store
from lmzoo.errors import LmzooError
from lmzoo.progress import console, progress
from lmzoo.text.config import UNUSED, TokenizerConfig
from lmzoo.text.tokenizer import load_tokenizer

TEXT_VERSION = 2
"""Part of every store's hash: raise it when reading, sentence splitting, the split into parts or the
training of tokenizers gives something else for the same text."""
LEAST_ROOM = 0.3
"""Bytes of a store for each byte of its files, at the very least; packed ones take several times as much."""
_TRIES = 3
"""Of a shard that is found damaged as soon as it is finished."""


def default_cache_dir() -> Path:
    """Where stores lie unless the user says otherwise: ``LMZOO_CACHE`` or the platform's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get("LMZOO_CACHE")
    return Path(given).expanduser() if given else user_cache_path("lmzoo")


def prepare(data: DataConfig, tokenizer: TokenizerConfig, cache_dir: Path) -> Store:
    """The store of this corpus and tokenizer: found in ``cache_dir``, or built there.

    Any number of processes may ask at once: one builds, the others wait for it. Nothing half-written is ever
    taken for whole; of an interrupted preparation the finished shards are gone on with. A store that is
    damaged is built anew, with a line that says so, and stays as it is where it cannot be.

    Raises:
        LmzooError: anything wrong with the text, the config or the store.
    """
    wanted = _Wanted(data, tokenizer, cache_dir)
    store = wanted.find()
    if store is None:
        with wanted.refusing(), wanted.building.lock("build", "is preparing the same corpus"):
            store = wanted.find()
            if store is None:
                wanted.build()
    return store or open_store(wanted.folder)


@dataclass(frozen=True)
class ShardsDone:
    """What `prepare_shards` did, and what it found at the end."""

    asked: list[int]
    """Numbers of the shards that it was asked for; all of them are finished."""
    finished: int
    """How many of the corpus's shards are finished, whoever did it."""
    total: int
    store: Store | None
    """Where all are finished."""


def prepare_shards(data: DataConfig, tokenizer: TokenizerConfig, cache_dir: Path, which: str) -> ShardsDone:
    """One job's share of a preparation that many share, on one machine or on several with one ``cache_dir``.

    The first job trains the tokenizer while the others wait for it. Whoever finishes the last shard writes
    the index, and then it is a store like any other.

    Args:
        data: names text in files.
        tokenizer: as for `prepare`.
        cache_dir: likewise; a folder that all jobs see under the same name.
        which: ``3``, the fourth shard; or ``3/16``, the fourth of sixteen jobs, which takes every sixteenth
            shard from the fourth on.

    Raises:
        LmzooError: as `prepare`, or there is no such shard.
    """
    first, jobs = _parse_share(which)
    wanted = _Wanted(data, tokenizer, cache_dir)
    ends = wanted.corpus.shard_ends()
    if not ends:
        raise LmzooError(f"shard={which} goes with data=text, whose files can be shared out")

    def share(total: int) -> list[int]:
        if jobs is None and first >= total:
            raise LmzooError(
                f"shard={which} is not there: this text is prepared in {total} shards, numbered from 0; "
                "data.shards= allows more, up to one for each file"
            )
        return [first] if jobs is None else list(range(first, total, jobs))

    store = wanted.find()
    if store is not None:
        return ShardsDone(share(len(ends)), len(ends), len(ends), store)
    with wanted.refusing():
        done, missing, total = wanted.build(share)
    return ShardsDone(done, total - len(missing), total, None if missing else open_store(wanted.folder))


def _parse_share(which: str) -> tuple[int, int | None]:
    found = re.fullmatch(r"(\d+)(?:/(\d+))?", which)
    if found is None:
        raise LmzooError(
            f"shard={which} is not known: give a number from 0, or 3/16 for the fourth of 16 jobs"
        )
    first, jobs = int(found[1]), None if found[2] is None else int(found[2])
    if jobs is not None and first >= jobs:
        raise LmzooError(f"shard={which} is not there: {jobs} jobs are numbered from 0 to {jobs - 1}")
    return first, jobs


class _Wanted:
    """A store that is asked for, and how it is made."""

    def __init__(self, data: DataConfig, tokenizer: TokenizerConfig, cache_dir: Path) -> None:
        self.data = data
        self.tokenizer = tokenizer
        self.corpus = Corpus(data)
        self.made_from = self._describe()
        name = hashlib.blake2b(
            json.dumps(self.made_from, sort_keys=True).encode(), digest_size=12
        ).hexdigest()
        self.building = Building(cache_dir / "stores", name)
        self.folder = self.building.stores / name
        self._damage: StoreDamage | None = None

    def _describe(self) -> dict[str, Any]:
        """All that decides what the store holds."""
        if self.tokenizer.file is None:
            pieces: dict[str, Any] = asdict(self.tokenizer)
            for setting in UNUSED.get(self.tokenizer.name, ()):
                del pieces[setting]
        else:
            # loaded here too, so that a wrong file is refused before anything is read or written
            pieces = {"fingerprint": load_tokenizer(Path(self.tokenizer.file)).fingerprint()}
        return {
            "format": FORMAT,
            "text_version": TEXT_VERSION,
            "corpus": self.corpus.describe(),
            "tokenizer": pieces,
        }

    def find(self) -> Store | None:
        """The store, if it is there and whole."""
        self._damage = None
        if not self.folder.exists():
            return None
        try:
            store = open_store(self.folder)
            if store.hash != self.building.name:
                self._damage = StoreDamage(f"{self.folder} holds another prepared corpus, {store.hash}")
        except StoreDamage as error:
            self._damage = error
        return store if self._damage is None else None

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn what a file system can do to a preparation into one line, and say what else is wrong."""
        try:
            try:
                self.building.stores.mkdir(parents=True, exist_ok=True)
                yield
            except (OSError, NotImplementedError) as error:  # the second: a file system without locks
                stores = self.building.stores
                reason = getattr(error, "strerror", None) or " ".join(str(error).split())
                where = getattr(error, "filename", None) or stores
                raise LmzooError(f"the corpus cannot be prepared in {stores}: {reason} ({where})") from error
        except LmzooError as error:
            if self._damage is None:
                raise
            raise LmzooError(
                f"{self._damage}; it cannot be made anew and is left as it is: {error}"
            ) from error

    def build(
        self, choose: Callable[[int], list[int]] = lambda total: list(range(total))
    ) -> tuple[list[int], list[int], int]:
        """Build shards, and the store once none is missing.

        Args:
            choose: which of so many; those that are finished already are left alone.

        Returns:
            those chosen, those that are missing because nobody has finished them yet, how many there are.
        """
        if self._damage is not None:
            _say(f"warning: {self._damage}; it is made anew")
        remove_leftovers(self.building.stores, self.building.name)
        try:
            shards = self._begin()
            if shards is None:
                total = len(self.corpus.shard_ends())
                return choose(total), [], total
            chosen = todo = choose(len(shards))
            for _ in range(_TRIES):
                self._build_shards(shards, todo)
                missing = self._finish(len(shards))
                todo = sorted(set(missing) & set(chosen))
                if not todo:
                    return chosen, missing, len(shards)
            raise LmzooError(
                f"what is written to {self.building.folder} comes back changed; is the disk whole?"
            )
        except BaseException:
            with suppress(OSError):
                self.building.remove_unfinished()
                kept = self.building.num_finished()
                if kept:
                    _say(
                        f"note: finished shards are kept, {kept} of them; the same command goes on from there"
                    )
            raise

    def _begin(self) -> list[Corpus] | None:
        """The shards of the text, with a plan and a tokenizer in the building folder: found there, or made.

        None where nothing but the last renaming was missing, and is done now; or another has finished it.
        """
        building = self.building
        with building.lock("common", "is training the tokenizer of the same corpus"):
            if self._publish() or self.find() is not None:
                return None
            ends = building.read_plan()
            if ends is not None:
                shards = self._cut(ends)
                finished = building.num_finished()
                if finished:
                    _say(f"{finished} of {len(shards)} shards are finished already")
                return shards
            shutil.rmtree(building.folder, ignore_errors=True)
            self._check_room()
            building.folder.mkdir()
            ends = self.corpus.shard_ends()
            shards = self._cut(ends)
            pieces = make_tokenizer(shards, self.tokenizer, self.data)
            if not self.corpus.is_at_rest() or self._describe() != self.made_from:
                raise LmzooError(CHANGED)
            building.write_plan(pieces, ends)
            return shards

    def _cut(self, ends: list[int]) -> list[Corpus]:
        shards = self.corpus.cut(ends)
        if not self.corpus.is_at_rest():  # looked at after the shards, so they are what the hash is of
            raise LmzooError(CHANGED)
        return shards

    def _check_room(self) -> None:
        """Refuse at once what cannot end well."""
        needed = LEAST_ROOM * self.corpus.num_bytes
        free = shutil.disk_usage(self.building.stores).free
        if free < needed:
            raise LmzooError(
                f"{self.building.stores} has {free / 1e9:.2f} GB free, and preparing "
                f"{self.corpus.num_bytes / 1e9:.2f} GB of text takes at least {needed / 1e9:.2f} GB, and as a "
                "rule twice that: make room, or give another cache_dir="
            )

    def _build_shards(self, shards: list[Corpus], numbers: list[int]) -> None:
        todo = {n: shards[n] for n in numbers if self.building.read_shard(n) is None}
        processes = min(self.data.processes, len(todo))
        task = partial(build_shard, building=self.building, shards=todo)
        with progress("encoding the text", total_of(todo.values())) as advance:
            done = (
                in_processes(task, todo, processes, advance)
                if processes > 1
                else (task(number, advance) for number in todo)
            )
            for number in [number for number, finished in done if not finished]:
                task(number, advance, waiting=True)

    def _finish(self, total: int) -> list[int]:
        """Make a store of all shards if none is missing; gives the numbers of those that are."""
        building = self.building
        with building.lock("common", "is joining the shards of the same corpus"):
            if not building.folder.exists():  # another has done it
                return []
            shards = [building.read_shard(number) for number in range(total)]
            missing = [number for number, shard in enumerate(shards) if shard is None]
            if missing:
                return missing
            found = [shard for shard in shards if shard is not None]
            counts = Counter[str]()
            for shard in found:
                counts.update({part: entry["documents"] for part, entry in shard["parts"].items()})
            try:
                check_parts(self.data, counts)
            except LmzooError:
                shutil.rmtree(building.folder, ignore_errors=True)
                raise
            try:
                join_shards(building, found, self.made_from)
            except StoreDamage as error:
                number = int(error.path.relative_to(building.folder / "shards").parts[0])
                _say(f"warning: {error}; shard {number} is made anew")
                shutil.rmtree(building.shard(number))
                return [number]
            self._publish()
            return []

    def _publish(self) -> bool:
        """Rename the building folder to the store, if all of it is there."""
        try:
            files = read_manifest(self.building.folder / "store.json")["files"]
        except StoreDamage:
            return False
        publish(self.building, self.folder, files)
        return True


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
