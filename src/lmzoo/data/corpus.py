"""The documents of a config, each with its part, cut into shards, and a sample of them for the tokenizer."""

from __future__ import annotations

import copy
import hashlib
import heapq
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from lmzoo.data.config import DataConfig
from lmzoo.data.sources import FileSource, open_source
from lmzoo.errors import LmzooError, one_of
from lmzoo.text.readers import Document
from lmzoo.text.sentences import WAYS

SHARD_BYTES = 2**27
"""Of files, packed as they lie on the disk, in a shard: what is lost of each process's work by a kill."""
MOST_SHARDS = 256
"""Above it shards are larger: a process that trains keeps each shard's tokens open, as one file a part."""


class Corpus:
    """The documents of a config, each with the part that it belongs to."""

    def __init__(self, data: DataConfig) -> None:
        one_of("data.sentences", data.sentences, WAYS)
        self.data = data
        self._source = open_source(data)
        self._known = self._source.describe()
        self._holds_out = "valid" not in self._source.parts
        if self._holds_out and not 0 < data.valid_fraction < 1:
            raise LmzooError(
                f"data.valid_fraction={data.valid_fraction} is not between 0 and 1; it is the share of the "
                "documents held out for validation"
            )

    def describe(self) -> dict[str, Any]:
        """All that decides which documents there are and how they are cut."""
        described = {"name": self.data.source, "sentences": self.data.sentences} | self._known
        if self._holds_out:
            described |= {"valid_fraction": self.data.valid_fraction, "split_seed": self.data.split_seed}
        return described

    @property
    def total(self) -> int | None:
        """What `read` tells its ``advance`` altogether; None where nobody knows."""
        return self._source.total

    @property
    def num_bytes(self) -> int:
        """Of its files, as they lie on the disk; 0 where it does not come in files."""
        return self._source.total if isinstance(self._source, FileSource) else 0

    def read(self, advance: Callable[[int], object]) -> Iterator[tuple[str, Document]]:
        """Every document with its part: ``train``, ``valid`` or ``test``."""
        for part, document in self._source.read(advance):
            yield self._split(document) if part == "train" else part, document

    def shard_ends(self) -> list[int]:
        """Where shards may end: numbers of files, in order, the number of all last.

        A file belongs to the shard into whose equal share of the bytes its middle falls. Text that does not
        come in files is one shard, with no number at all.
        """
        if not isinstance(self._source, FileSource):
            return []
        sizes, total = self._source.sizes, max(self._source.total, 1)
        count = self.data.shards or min(MOST_SHARDS, max(1, round(total / SHARD_BYTES)))
        middles = [(2 * end - size) / (2 * total) for end, size in zip(accumulate(sizes), sizes, strict=True)]
        holder = [min(int(middle * count), count - 1) for middle in middles]
        return [i for i in range(1, len(sizes)) if holder[i] != holder[i - 1]] + [len(sizes)]

    def cut(self, ends: list[int]) -> list[Corpus]:
        """The shards that end there: one after the other they give what the whole gives.

        Each is known by its files as they are now: see `is_at_rest`.
        """
        if not isinstance(self._source, FileSource):
            return [self]
        shards = []
        for source in self._source.cut(ends):
            shard = copy.copy(self)
            shard._source = source
            shard._known = source.describe()
            shards.append(shard)
        return shards

    def is_at_rest(self) -> bool:
        """Whether the text is still what it was when this was made."""
        return self._source.describe() == self._known

    def _split(self, document: Document) -> str:
        """By the text alone: so copies of a document stay together, whatever their order."""
        if not self._holds_out:
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
        self._shrink()

    def merge(self, other: Sample) -> None:
        """Take over a sample of other documents and the same size, as if this one had been offered them."""
        self._bound = min(self._bound, other._bound)
        # of copies with the bound's own hash some had room
        self._heap = [entry for entry in (*self._heap, *other._heap) if -entry[0] <= self._bound]
        heapq.heapify(self._heap)
        self._held_bytes = sum(len(content) for _, content in self._heap)
        self._shrink()

    def _shrink(self) -> None:
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
