"""The views of whole sentences packed into rows: FULL-SENTENCES and DOC-SENTENCES.

Liu et al. 2019 (RoBERTa), section 4.2. Their larger batches where rows are short are not made here: a budget in
tokens, which does not count padding, makes up for it.
"""

from __future__ import annotations

from array import array

import numpy as np

from lmzoo.data.store import Part
from lmzoo.data.stream import SentencesView
from lmzoo.types import SpecialTokens


def walk(following: np.ndarray) -> np.ndarray:
    """0, ``following[0]``, ``following[following[0]]``, …: where chunks start that take up each other's end.

    Args:
        following: (n,) int64 the first sentence after the chunk that begins at each; larger than its own number.

    Returns:
        (chunks,) int64. The walk from chunk to chunk is the one thing that cannot be vectorised.
    """
    steps, starts, sentence = following.data, array("q"), 0
    while sentence < len(following):
        starts.append(sentence)
        sentence = steps[sentence]
    return np.frombuffer(starts, dtype=np.int64).copy()


class PackedSentencesView(SentencesView):
    """Rows ``[CLS]``, as many whole consecutive sentences as fit, ``[SEP]``; a longer sentence is cut.

    With ``cross`` a row goes on into the next document, after ``[SEP] [CLS]``, and every position of it may see
    every other (FULL-SENTENCES); without, a row ends with its document (DOC-SENTENCES). A batch is as long as its
    longest row, rounded up to a multiple of 8, at most ``seq_len``.
    """

    def __init__(self, part: Part, special: SpecialTokens, seq_len: int, *, cross: bool) -> None:
        self._cross = cross
        super().__init__(part, special, seq_len)

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        part, ends = self.part, self.part.sentence_ends(0, len(self.part.sentences))
        within = np.searchsorted(ends, part.sentences + (self.seq_len - 2), side="right")
        following = np.maximum(within, np.arange(1, len(ends) + 1))
        if not self._cross:
            counts = np.diff(part.document_sentences)
            following = np.minimum(following, np.repeat(part.document_sentences[1:], counts))
        start = walk(following.astype(np.int64))
        starts, ends = part.sentences[start], ends[following[start] - 1]
        return starts, np.minimum(ends - starts, self.seq_len - 2) + 2
