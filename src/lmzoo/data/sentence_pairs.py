"""The view of pairs of single sentences: SENTENCE-PAIR of Liu et al. 2019 (RoBERTa), section 4.2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmzoo import rng
from lmzoo.data.pairs import PairsView
from lmzoo.data.store import Part
from lmzoo.types import NO_DOCUMENT, Batch, SpecialTokens


class SentencePairsView(PairsView):
    """Rows ``[CLS] A [SEP] B [SEP]`` of two natural sentences.

    A is a sentence of a document, B the next one or, half of the time, a sentence of another document. The rows
    of an epoch are the sentences of every document two by two; only whether B is the next one, and which other
    it is, is drawn anew each epoch. A batch is as long as its longest row, rounded up to a multiple of 8.

    Raises:
        LmzooError: as ``PairsView``.
    """

    def __init__(self, part: Part, special: SpecialTokens, seq_len: int, key: int) -> None:
        super().__init__(part, special, seq_len, key, short_pairs=0.0)

    def batch(self, rows: np.ndarray, epochs: np.ndarray, samples: np.ndarray) -> Batch:
        """The pairs of ``rows`` in ``epochs``; see `views.View.batch`."""
        whole = super().batch(rows, epochs, samples)
        longest = int((whole.documents != NO_DOCUMENT).sum(1).max())
        width = min(-(-longest // 8) * 8, self.seq_len)
        assert whole.segments is not None
        return replace(
            whole,
            tokens=whole.tokens[:, :width].contiguous(),
            documents=whole.documents[:, :width].contiguous(),
            positions=whole.positions[:, :width].contiguous(),
            segments=whole.segments[:, :width].contiguous(),
        )

    def _chunks(self) -> tuple[np.ndarray, np.ndarray]:
        part = self.part
        counts = np.diff(part.document_sentences)
        document_start = np.repeat(part.document_sentences[:-1], counts)
        document_end = np.repeat(part.document_sentences[1:], counts)
        first = np.arange(len(part.sentences))
        start = first[(first - document_start) % 2 == 0]
        end = np.minimum(start + 2, document_end[start])
        # a sentence left over at a document's end takes the one before it along
        start = start - ((end - start == 1) & (start > document_start[start]))
        return start, end

    def _draw(self, rows: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, ...]:
        part, keys = self.part, self._keys
        start = self._starts[rows]
        alone = self._ends[rows] - start == 1
        own = np.searchsorted(part.document_sentences, start, side="right") - 1
        is_random = alone | (rng.uniform(keys["random"], epochs, rows) < 0.5)
        other, random_start = self._elsewhere(own, rows, epochs)
        sentence = np.where(is_random, random_start, np.minimum(start + 1, self._ends[rows] - 1))
        document = np.where(is_random, other, own)
        return (
            part.sentences[start],
            self._sentence_end(start, own),
            part.sentences[sentence],
            self._sentence_end(sentence, document),
            is_random,
        )
