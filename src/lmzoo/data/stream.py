"""The views of running text: packed blocks, and one sentence a row."""

from __future__ import annotations

import numpy as np

from lmzoo import rng
from lmzoo.data.rows import make_batch
from lmzoo.data.store import Part
from lmzoo.errors import LmzooError
from lmzoo.types import Batch, SpecialTokens

_SENTENCES = 2**20
"""Measured at a time."""


class StreamView:
    """Row ``b`` is the ``b``-th block of ``seq_len`` tokens of the part; the last one is padded.

    A block may hold the end of one document and the start of the next: ``documents`` tells them apart,
    and ``positions`` count from each document's first token in the row.
    """

    def __init__(self, part: Part, special: SpecialTokens, seq_len: int) -> None:
        self.part = part
        self.special = special
        self.seq_len = seq_len
        self.num_tokens = part.num_tokens
        """Tokens of one epoch, padding not counted."""

    def __len__(self) -> int:
        return -(-self.part.num_tokens // self.seq_len)

    def batch(self, rows: np.ndarray, epochs: np.ndarray, samples: np.ndarray) -> Batch:
        """The blocks ``rows``; see `views.View.batch`."""
        offsets = rows[:, None] * self.seq_len + np.arange(self.seq_len)  # (B, T)
        is_text = offsets < self.num_tokens
        offsets = np.minimum(offsets, self.num_tokens - 1)
        document = np.searchsorted(self.part.documents, offsets, side="right") - 1
        starts = np.maximum(self.part.documents[document], offsets[:, :1])
        return make_batch(
            self.special,
            is_text,
            tokens=self.part.tokens[offsets],
            documents=document - document[:, :1],
            positions=offsets - starts,
            samples=samples,
        )

    def unique_tokens(self, rows_seen: int, key: int) -> int | None:
        """Distinct corpus tokens among the first ``rows_seen`` rows of the order that ``key`` names."""
        if rows_seen >= len(self):
            return self.num_tokens
        padding = len(self) * self.seq_len - self.num_tokens
        last_is_seen = len(self) - 1 in rng.permuted(key, len(self), np.arange(rows_seen))
        return rows_seen * self.seq_len - padding * last_is_seen


class SentencesView:
    """Row ``s`` is ``[CLS]``, the ``s``-th sentence, ``[SEP]``, cut at ``seq_len``.

    A batch is as long as its longest row, rounded up to a multiple of 8, at most ``seq_len``.
    """

    def __init__(self, part: Part, special: SpecialTokens, seq_len: int) -> None:
        if seq_len < 3:
            raise LmzooError(f"seq_len={seq_len} leaves no room between [CLS] and [SEP]; give at least 3")
        self.part = part
        self.special = special
        self.seq_len = seq_len
        self._starts, self._lengths = self._rows()
        self.num_tokens = int(self._lengths.sum(dtype=np.int64))
        """Tokens of one epoch, padding not counted."""

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows,) where each row's text starts in the part's tokens, and its length with [CLS] and [SEP]."""
        part = self.part
        # 4 bytes a sentence, and some at a time: a corpus larger than memory may have a billion
        found = np.empty(len(part.sentences), dtype=np.int32)
        for first in range(0, len(found), _SENTENCES):
            after = min(first + _SENTENCES, len(found))
            lengths = part.sentence_ends(first, after) - part.sentences[first:after]
            found[first:after] = np.minimum(lengths, self.seq_len - 2) + 2
        return part.sentences, found

    def __len__(self) -> int:
        return len(self._lengths)

    def batch(self, rows: np.ndarray, epochs: np.ndarray, samples: np.ndarray) -> Batch:
        """The sentences ``rows``; see `views.View.batch`."""
        lengths = self._lengths[rows][:, None]
        longest = int(lengths.max())
        positions = np.arange(min(-(-longest // 8) * 8, self.seq_len))[None, :]
        is_text = positions < lengths
        offsets = np.minimum(self._starts[rows][:, None] + positions - 1, self.part.num_tokens - 1)
        tokens = self.part.tokens[offsets]
        tokens[:, 0] = self.special.cls
        np.put_along_axis(tokens, lengths - 1, self.special.sep, axis=1)
        return make_batch(
            self.special, is_text, tokens, documents=np.int64(0), positions=positions, samples=samples
        )

    def unique_tokens(self, rows_seen: int, key: int) -> int | None:
        """As `StreamView.unique_tokens`; each row's own ``[CLS]`` and ``[SEP]`` are counted with it."""
        if rows_seen >= len(self):
            return self.num_tokens
        return int(self._lengths[rng.permuted(key, len(self), np.arange(rows_seen))].sum(dtype=np.int64))
