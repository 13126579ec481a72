"""A share of a part's documents, as if the part were no larger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmzoo import rng
from lmzoo.data.config import DataConfig
from lmzoo.data.store import Part, Store


def trained_on(store: Store, data: DataConfig) -> Store:
    """The store with the share of its training text that ``data.train_fraction`` leaves."""
    if data.train_fraction >= 1:
        return store
    train = Subset(store.parts["train"], data.train_fraction, rng.key(data.split_seed, "train_fraction"))
    return replace(store, parts=store.parts | {"train": train})


class Subset(Part):
    """The documents of ``whole`` that hold ``fraction`` of its tokens, in the order of the whole.

    Which they are is drawn by ``key``, and a smaller share lies within a larger one. Their tokens lie in memory.
    """

    def __init__(self, whole: Part, fraction: float, key: int) -> None:
        self.folder = whole.folder
        self._made_from = (whole, fraction, key)
        lengths = np.diff(whole.documents)
        order = rng.permuted(key, len(lengths), np.arange(len(lengths)))
        before = np.cumsum(lengths[order]) - lengths[order]
        chosen = np.sort(order[before < fraction * lengths.sum()])
        first, after = whole.document_sentences[chosen], whole.document_sentences[chosen + 1]
        starts, ends = whole.documents[chosen], whole.documents[chosen + 1]
        self.tokens = np.concatenate(
            [whole.tokens[start:end] for start, end in zip(starts, ends, strict=True)]
        )
        self.documents = _offsets(ends - starts)
        self.document_sentences = _offsets(after - first)
        moved = self.documents[:-1] - starts
        self.sentences = np.concatenate(
            [whole.sentences[one:other] + by for one, other, by in zip(first, after, moved, strict=True)]
        )
        self.unigrams = np.bincount(self.tokens, minlength=len(whole.unigrams))

    def __reduce__(self) -> tuple[type[Subset], tuple[Part, float, int]]:  # type: ignore[override]
        return Subset, self._made_from  # a worker process maps the files and chooses again


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """(n + 1,) int64 where each of n things starts that lie one after another, and the end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
