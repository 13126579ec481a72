"""How much a word's vector depends on its context: self-similarity, intra-sentence similarity, anisotropy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmzoo import rng
from lmzoo.inference.model import LanguageModel
from lmzoo.inference.sources import slow_progress
from lmzoo.yardsticks.base import Asked, Measured, hash_of
from lmzoo.yardsticks.blocks import documents_of
from lmzoo.yardsticks.likelihoods import WORDS as WHAT_WORDS_ARE
from lmzoo.yardsticks.likelihoods import word_spans
from lmzoo.yardsticks.word_vectors import Span, most_tokens, stream_word_vectors, units

SENTENCES = 2000
"""Drawn from the text."""
WORDS = 500
"""Drawn from those that stand in enough of these sentences."""
LEAST = 5
"""Sentences that a word must stand in (Ethayarajh 2019, section 3)."""
OCCURRENCES = 10
"""Drawn of each word."""
BASELINE = 1000
"""Occurrences of any words, drawn for the anisotropy (Ethayarajh 2019, section 3)."""
_WORDS_OF_A_SENTENCE = (3, 60)
"""Fewer words are a heading, more fit into few models."""
_SENTENCES_AN_ITEM = 20
"""Sentences for each word that ``limit`` allows."""


def contextuality(model: LanguageModel, asked: Asked) -> Measured:
    """Ethayarajh 2019, *How contextual are contextualized word representations?*, section 3.

    By layer, the embedding first: the **self-similarity** of a word, the mean cosine between its vectors in
    different sentences; the **intra-sentence similarity**, the mean cosine between the words of a sentence
    and their mean; the **anisotropy**, the mean cosine between any words of the text; and the first two
    less the third ("adjusted"). A static embedding has self-similarity 1 (less where a tokenizer spells a
    word at the beginning of a text otherwise than after a blank).

    The figure is the adjusted self-similarity of the top layer, the mean over the words: the lower it is,
    the more of a word's vector comes from the context rather than from the word. That describes a model,
    and is no merit. The words are drawn by the text and the seed alone, so they are the same for any model.

    Args:
        model: any.
        asked: ``text`` or the run's ``validation`` sentences; ``seed``; ``limit`` words, of the first
            twenty times as many sentences that are drawn.

    Returns:
        No figure, with the reason, where too few words of the text come up in five sentences.

    Raises:
        LmzooError: there is no text, or it cannot be read.
    """
    documents = documents_of(asked)()
    sample = _drawn((sentence for document in documents for sentence in document), asked)
    found = _Sums(sample)
    most = most_tokens(model.engine, asked.seq_len)
    counts = {"texts_cut": 0, "words_without_pieces": 0, "words_read_as_unknown": 0}
    with slow_progress("contextuality", len(sample.texts)) as advance:
        wanted = zip(sample.texts, sample.spans, strict=True)
        stream = stream_word_vectors(model.engine, wanted, most=most, batch_tokens=asked.batch_tokens)
        for number, words in enumerate(stream):
            counts["texts_cut"] += words.was_cut
            counts["words_without_pieces"] += int((~words.has_pieces).sum())
            counts["words_read_as_unknown"] += int(words.is_unknown.sum())
            found.add(number, words.vectors, words.has_pieces)
            advance(1)
    similarity = found.self_similarity()
    kept = [place for place, values in enumerate(similarity) if values is not None]
    measured = Measured(
        figure=None,
        unit="cosine",
        higher_is_better=False,
        kind="adjusted self-similarity",
        settings={
            "source": "validation" if asked.text is None else asked.text.name,
            "sentences": len(sample.texts),
            "words": len(kept),
            "what_words_are": WHAT_WORDS_ARE,
            "words_of_at_least": f"{LEAST} sentences",
            "occurrences_a_word": OCCURRENCES,
            "occurrences_for_anisotropy": len(sample.baseline),
            "seed": asked.seed,
            "headline": "top layer; lower means more contextual, which is no merit",
        },
        items_hash=hash_of([*sample.texts, *sample.words]),
    )
    if not kept or found.baseline.count < 2:
        measured.reason = f"no word of the text stands in {LEAST} of its sentences; give a longer text"
        return measured
    by_word = np.stack([values for values in similarity if values is not None])  # (W, L)
    anisotropy, intra = found.baseline.mean_cosine(), found.intra_sentence()
    self_similarity = by_word.mean(0)
    measured.figure = float(self_similarity[-1] - anisotropy[-1])
    measured.parts = {
        "self_similarity_by_layer": self_similarity.tolist(),
        "intra_sentence_similarity_by_layer": intra.tolist(),
        "anisotropy_by_layer": anisotropy.tolist(),
        "adjusted_self_similarity_by_layer": (self_similarity - anisotropy).tolist(),
        "adjusted_intra_sentence_similarity_by_layer": (intra - anisotropy).tolist(),
        "counts": counts | {"words_left_out": len(sample.words) - len(kept)},
    }
    measured.items = [
        {
            "id": sample.words[place],
            "occurrences": found.words[place].count,
            "self_similarity_by_layer": values.tolist(),
            "adjusted_top_layer": float(values[-1] - anisotropy[-1]),
        }
        for place, values in zip(kept, by_word, strict=True)
    ]
    return measured


@dataclass(frozen=True)
class _Sample:
    """What is looked at: nothing of it depends on a model."""

    texts: list[str]
    spans: list[list[Span]]
    """The words of every text."""
    words: list[str]
    occurrences: dict[tuple[int, int], int]
    """Place among ``words`` of the drawn occurrences, by text and number of the word in it."""
    baseline: set[tuple[int, int]]
    """Occurrences of any words."""


class _Mean:
    """The mean cosine between distinct vectors, from their sum: they need not be kept.

    For unit vectors u_1 … u_n the cosines of all ordered pairs sum to |u_1 + … + u_n|² - (|u_1|² + …).
    """

    def __init__(self) -> None:
        self.total: Any = 0.0
        """(L, D)"""
        self.squares: Any = 0.0
        """(L,)"""
        self.count = 0

    def add(self, unit: np.ndarray) -> None:
        """One more (L, D), of unit vectors."""
        self.total = self.total + unit
        self.squares = self.squares + (unit**2).sum(-1)
        self.count += 1

    def mean_cosine(self) -> np.ndarray:
        """(L,); of two vectors or more."""
        return ((self.total**2).sum(-1) - self.squares) / (self.count * (self.count - 1))


class _Sums:
    """What is kept of the vectors: sums, so that memory does not grow with the text."""

    def __init__(self, sample: _Sample) -> None:
        self.sample = sample
        self.words = [_Mean() for _ in sample.words]
        self.baseline = _Mean()
        self._intra: Any = 0.0
        self._sentences = 0

    def add(self, number: int, vectors: np.ndarray, has_pieces: np.ndarray) -> None:
        """The (S, L, D) words of one text."""
        places = np.flatnonzero(has_pieces)
        if not len(places):
            return
        unit = units(vectors[places])
        mean = units(vectors[places].astype(np.float64).mean(0))  # (L, D)
        self._intra = self._intra + (unit * mean).sum(-1).mean(0)
        self._sentences += 1
        for place, vector in zip(places.tolist(), unit, strict=True):
            word = self.sample.occurrences.get((number, place))
            if word is not None:
                self.words[word].add(vector)
            if (number, place) in self.sample.baseline:
                self.baseline.add(vector)

    def self_similarity(self) -> list[np.ndarray | None]:
        """(L,) of every word; None where fewer than two of its occurrences have pieces."""
        return [word.mean_cosine() if word.count > 1 else None for word in self.words]

    def intra_sentence(self) -> np.ndarray:
        """(L,) the mean over the sentences."""
        return self._intra / self._sentences


def _drawn(sentences: Iterable[str], asked: Asked) -> _Sample:
    """Sentences, words and occurrences, as the seed has it."""
    least, most = _WORDS_OF_A_SENTENCE
    distinct = dict.fromkeys(sentence.strip() for sentence in sentences)  # contexts are unique
    pool = [text for text in distinct if least <= len(word_spans(text)) <= most]
    count = SENTENCES if asked.limit is None else min(SENTENCES, _SENTENCES_AN_ITEM * asked.limit)
    texts = [pool[i] for i in _some(asked.seed, "sentences", len(pool), count)]
    spans = [word_spans(text) for text in texts]
    standing: dict[str, dict[int, int]] = {}
    for number, (text, places) in enumerate(zip(texts, spans, strict=True)):
        for place, (start, end) in enumerate(places):
            standing.setdefault(text[start:end], {}).setdefault(number, place)
    frequent = sorted(word for word, places in standing.items() if len(places) >= LEAST)
    count = WORDS if asked.limit is None else min(WORDS, asked.limit)
    words = [frequent[i] for i in _some(asked.seed, "words", len(frequent), count)]
    occurrences = {}
    for number, word in enumerate(words):
        places = list(standing[word].items())
        for i in _some(asked.seed, f"occurrences of {word}", len(places), OCCURRENCES):
            occurrences[places[i]] = number
    every = [(number, place) for number, places in enumerate(spans) for place in range(len(places))]
    baseline = {every[i] for i in _some(asked.seed, "baseline", len(every), BASELINE)}
    return _Sample(texts, spans, words, occurrences, baseline)


def _some(seed: int, what: str, length: int, count: int) -> list[int]:
    """At most ``count`` of ``range(length)``, drawn and in order."""
    if not length:
        return []
    ranks = rng.permuted(rng.key(seed, "contextuality", what), length, np.arange(length))
    return np.flatnonzero(ranks < count).tolist()
