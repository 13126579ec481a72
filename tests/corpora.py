"""Small corpora for the tests of the data rooms."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from lmzoo.data.store import Part
from lmzoo.data.writer import PartWriter
from lmzoo.types import SpecialTokens

PAD, CLS, SEP = 0, 2, 3
SPECIAL = SpecialTokens(vocab_size=1000)

WORDS = [
    "the",
    "sea",
    "was",
    "calm",
    "and",
    "a",
    "red",
    "boat",
    "lay",
    "by",
    "old",
    "stones",
    "when",
    "night",
    "fell",
    "over",
    "many",
    "quiet",
    "houses",
]


def make_part(folder: Path, documents: list[list[list[int]]], special: SpecialTokens = SPECIAL) -> Part:
    """A part of documents of sentences of ids."""
    sentences = [sentence for document in documents for sentence in document]
    numbers = [number for number, document in enumerate(documents) for _ in document]
    writer = PartWriter(folder, special)
    writer.append(
        np.array([i for sentence in sentences for i in sentence], dtype=np.int64),
        np.array([len(sentence) for sentence in sentences]),
        np.array(numbers),
    )
    writer.close()
    return Part(folder)


def numbered_part(folder: Path, lengths: list[list[int]]) -> Part:
    """Documents of sentences of the given lengths, whose ids are 10, 11, 12, … through the whole part."""
    ids = iter(range(10, 10**6))
    documents = [[[next(ids) for _ in range(n)] for n in document] for document in lengths]
    return make_part(folder, documents, SpecialTokens(vocab_size=next(ids)))


def made_documents(count: int, seed: int = 0, sentences: int = 6) -> list[str]:
    """Documents of made-up sentences, one a line."""
    random = np.random.default_rng(seed)
    return [
        "\n".join(
            " ".join(random.choice(WORDS, random.integers(3, 12))).capitalize() + "."
            for _ in range(sentences)
        )
        for _ in range(count)
    ]


def write_text(path: Path, documents: list[str]) -> Path:
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


def read_real(path: Path, count: int) -> list[str]:
    """The first documents of one of the real corpora."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        documents = []
        lines: list[str] = []
        for line in file:
            if line.strip():
                lines.append(line.rstrip("\n"))
            elif lines:
                documents.append("\n".join(lines))
                lines = []
                if len(documents) == count:
                    break
    return documents
