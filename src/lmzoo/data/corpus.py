"""The documents of a config, each with its part, and a sample of them for the tokenizer."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lmzoo.data.config import DataConfig
from lmzoo.data.store import PARTS
from lmzoo.errors import LmzooError, one_of
from lmzoo.text.readers import Document, read_documents, resolve_paths
from lmzoo.text.sentences import WAYS
from lmzoo.text.stdlib import stdlib_documents, stdlib_fingerprint


class Corpus:
    """The documents of a config, each with the part that it belongs to."""

    def __init__(self, data: DataConfig) -> None:
        one_of("data", data.name, ("stdlib", "text"))
        one_of("data.sentences", data.sentences, WAYS)
        self.data = data
        self.files: dict[str, list[Path]] = {}
        self._documents: list[Document] | None = None
        given = {part: getattr(data, part) for part in PARTS if getattr(data, part) is not None}
        if data.name == "stdlib" and given:
            key, value = next(iter(given.items()))
            raise LmzooError(f"data.{key}={value} needs data=text; data=stdlib brings its own text")
        if data.name == "text" and "train" not in given:
            raise LmzooError("data=text needs data.train=FILE (one path, a list or a glob; .txt or .jsonl)")
        if "valid" not in given and not 0 < data.valid_fraction < 1:
            raise LmzooError(
                f"data.valid_fraction={data.valid_fraction} is not between 0 and 1; it is the share of the "
                "documents held out for validation"
            )
        for part, value in given.items():
            self.files[part] = resolve_paths(value, f"data.{part}")

    def describe(self) -> dict[str, Any]:
        """All that decides which documents there are and how they are cut."""
        described: dict[str, Any] = {"name": self.data.name, "sentences": self.data.sentences}
        if self.data.name == "stdlib":
            described["python"] = stdlib_fingerprint()
        for part, paths in self.files.items():
            sizes = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
            described[part] = sizes
        if "valid" not in self.files:
            described |= {"valid_fraction": self.data.valid_fraction, "split_seed": self.data.split_seed}
        return described

    @property
    def file_bytes(self) -> int | None:
        """Bytes of all files, or None where there are none."""
        paths = list(chain.from_iterable(self.files.values()))
        return sum(path.stat().st_size for path in paths) if paths else None

    def read(self, advance: Callable[[int], object]) -> Iterator[tuple[str, Document]]:
        """Every document with its part: ``train``, ``valid`` or ``test``."""
        if self.data.name == "stdlib":
            if self._documents is None:  # slow to find, and small enough to keep for the second reading
                self._documents = list(stdlib_documents())
            for document in self._documents:
                yield self._split(document), document
            return
        # most documents end within a block of the file that is read already: no news for the bar
        moved: Callable[[int], object] = lambda amount: advance(amount) if amount else None  # noqa: E731
        for part, paths in self.files.items():
            for document in read_documents(paths, moved):
                yield self._split(document) if part == "train" else part, document

    def _split(self, document: Document) -> str:
        """By the text alone: so copies of a document stay together, whatever their order."""
        if "valid" in self.files:
            return "train"
        drawn = _digest(document.text, f"split {self.data.split_seed}") / 2**64
        return "valid" if drawn < self.data.valid_fraction else "train"


class Sample:
    """The documents with the smallest hashes, as many as fit: no order of the text can bias it.

    Of a document larger than the whole room, its beginning counts.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._heap: list[tuple[int, bytes]] = []  # by negative hash: the largest hash first
        self._bound = 2**64  # once a hash had no room, no larger one is taken, or the order would matter

    def add(self, text: str) -> None:
        """Offer a document."""
        rank = _digest(text, "sample")
        if rank >= self._bound:
            return
        content = text.encode()[: self._max_bytes]
        heapq.heappush(self._heap, (-rank, content))
        self._held_bytes += len(content)
        while self._held_bytes > self._max_bytes:
            largest, dropped = heapq.heappop(self._heap)
            self._bound = -largest
            self._held_bytes -= len(dropped)

    def texts(self) -> Iterator[str]:
        """The sampled documents, by hash."""
        for _, content in sorted(self._heap, reverse=True):
            yield content.decode(errors="ignore")


def _digest(text: str, person: str) -> int:
    """64 bits of a hash of the text, another for every ``person``."""
    key = hashlib.blake2b(person.encode(), digest_size=32).digest()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")
