"""From documents to the arrays of their parts: cut into sentences, encoded, written, some text at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lmzoo.data.corpus import Corpus
from lmzoo.data.store import PARTS
from lmzoo.data.writer import PartWriter
from lmzoo.text.readers import Document
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer

BATCH_CHARACTERS = 500_000
"""Encoded at a time; an encoding takes some hundred times the memory of its text."""


def encode(
    corpus: Corpus, tokenizer: TextTokenizer, folder: Path, advance: Callable[[int], object]
) -> dict[str, dict[str, Any]]:
    """Write the parts of a corpus, each into a folder of its own.

    Args:
        corpus: the whole of it, or one of its shards.
        tokenizer: the corpus's.
        folder: exists, and has none of the parts yet.
        advance: as `Corpus.read` takes it.

    Returns:
        of each part ``text_bytes`` (UTF-8 bytes of its documents), how many ``documents`` with a token,
        ``sentences`` and ``tokens`` it has, and the ``dtype`` of these.
    """
    encoders: dict[str, _PartEncoder] = {}
    for part, document in corpus.read(advance):
        if part not in encoders:
            encoders[part] = _PartEncoder(tokenizer, corpus.data.sentences, folder / part)
        encoders[part].add(document)
    for encoder in encoders.values():
        encoder.close()
    return {part: encoders[part].described() for part in PARTS if part in encoders}


class _PartEncoder:
    """Cuts documents into sentences, and encodes and writes them some text at a time."""

    def __init__(self, tokenizer: TextTokenizer, sentences: str, folder: Path) -> None:
        self._writer = PartWriter(folder, tokenizer.special)
        self._text_bytes = 0
        self._tokenizer = tokenizer
        self._how = sentences
        self._num_documents = 0
        self._sentences: list[str] = []
        self._documents: list[int] = []
        self._characters = 0

    def add(self, document: Document) -> None:
        text = document.text
        starts = sentence_spans(text, self._how)
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            self._sentences.append(text[start:end])
            self._documents.append(self._num_documents)
            self._characters += end - start
            if self._characters >= BATCH_CHARACTERS:
                self._flush()
        self._num_documents += 1
        self._text_bytes += len(text.encode())

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def described(self) -> dict[str, Any]:
        """What was written, as `encode` gives it."""
        return {"text_bytes": self._text_bytes, **self._writer.described()}

    def _flush(self) -> None:
        encoded = self._tokenizer.encode_batch(self._sentences)
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int64, count=int(lengths.sum()))
        self._writer.append(ids, lengths, np.array(self._documents, dtype=np.int64))
        self._sentences, self._documents, self._characters = [], [], 0
