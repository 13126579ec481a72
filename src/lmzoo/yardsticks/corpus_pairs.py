"""Minimal pairs out of any held-out text: a sentence, and twins of it that were damaged.

The yardstick for a corpus without labels, in any language: no grammar is known here, only what a word is.
What is drawn depends on the text and on a fixed seed, never on a model or its tokenizer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np

from lmzoo import rng
from lmzoo.inference.model import LanguageModel
from lmzoo.inference.sources import slow_progress
from lmzoo.yardsticks.base import Asked, Measured, hash_of
from lmzoo.yardsticks.likelihoods import sentence_scores, ways_of, why_no_likelihood, word_spans
from lmzoo.yardsticks.minimal_pairs import UNIT, settings_of
from lmzoo.yardsticks.outcomes import Outcomes, judged_by_control
from lmzoo.yardsticks.streams import Documents, documents_of

SENTENCES = 1_000
"""At most; each gives a pair of either group."""
FEWEST_WORDS, MOST_WORDS = 4, 40
"""Of a sentence that is taken."""
MOST_BYTES = 5_000_000
"""Of the text that is looked at."""
GROUPS = ("swap", "replace")
Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Twins:
    """A held-out sentence and what was made of it."""

    id: str
    sentence: str
    swap: str
    """Two neighbouring words have changed places."""
    replace: str
    """One word is another one that is as frequent in the text."""
    counts: tuple[int, int]
    """How often the text has the word that was replaced, and the one in its place."""


def made_pairs(documents: Iterable[list[str]], seed: int, most: int = SENTENCES) -> list[Twins]:
    """Sentences of a text with their twins, in the text's order.

    Args:
        documents: sentences of each document.
        seed: of the draws.
        most: sentences; drawn from all that have 4 to 40 words and give both twins.

    A sentence's first word stays where and what it is, as its capital would give a twin away. What is swapped
    stands side by side, without punctuation between; in a script without spaces that is two characters. What
    replaces a word looks like it (small letters, a capital, capitals, numerals, a character) and is as
    frequent in the text, or as nearly as any word is.
    """
    frequencies: Counter[str] = Counter()
    usable: dict[str, None] = {}
    for text in (sentence.strip() for sentences in documents for sentence in sentences):
        spans = word_spans(text)
        frequencies.update(text[start:end] for start, end in spans)
        if FEWEST_WORDS <= len(spans) <= MOST_WORDS and _swaps(text, spans):
            usable[text] = None
    sentences = list(usable)
    peers = _Peers(frequencies)
    found: dict[int, Twins] = {}
    for number in _permuted(seed, len(sentences)):
        if len(found) == most:
            break
        twins = _twins(sentences[number], peers, seed, number)
        if twins is not None:
            found[number] = twins
    return [found[number] for number in sorted(found)]


def _swaps(text: str, spans: Spans) -> list[int]:
    """Numbers of words, not the first, that can change places with the next one."""
    words = [text[start:end].casefold() for start, end in spans]
    beside = [not text[a:b].strip() for (_, a), (b, _) in pairwise(spans)]
    return [i for i in range(1, len(spans) - 1) if beside[i] and words[i] != words[i + 1]]


def _twins(text: str, peers: _Peers, seed: int, number: int) -> Twins | None:
    """None where no word has another that is like it."""
    spans = word_spans(text)
    swaps = _swaps(text, spans)
    place = swaps[_drawn(seed, "swap", number, len(swaps))]
    (a, b), (c, d) = spans[place], spans[place + 1]
    swapped = text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]
    known = [span for span in spans[1:] if peers.has(text[slice(*span)])]
    if not known:
        return None
    start, end = known[_drawn(seed, "place", number, len(known))]
    other = peers.like(text[start:end], seed, number)
    replaced = text[:start] + other + text[end:]
    counts = peers.frequencies[text[start:end]], peers.frequencies[other]
    return Twins(str(number), text, swapped, replaced, counts)


def _permuted(seed: int, count: int) -> list[int]:
    if not count:
        return []
    return rng.permuted(rng.key(seed, "corpus pairs"), count, np.arange(count)).tolist()


def _drawn(seed: int, what: str, number: int, count: int) -> int:
    return int(rng.integers(rng.key(seed, "corpus pairs", what), count, np.array([number]))[0])


class _Peers:
    """The words of a text by how they look, the rarest first."""

    def __init__(self, frequencies: Counter[str]) -> None:
        self.frequencies = frequencies
        self._words: dict[str, list[str]] = {}
        for word in sorted(frequencies, key=lambda word: (frequencies[word], word)):
            self._words.setdefault(_look(word), []).append(word)
        self._counts = {look: [frequencies[w] for w in words] for look, words in self._words.items()}

    def has(self, word: str) -> bool:
        """Whether there is another word that looks like this one."""
        return len(self._words[_look(word)]) > 1

    def like(self, word: str, seed: int, number: int) -> str:
        """Another word that is as frequent, drawn among all such; else of the two next to it the nearer."""
        words, counts = self._words[_look(word)], self._counts[_look(word)]
        count = self.frequencies[word]
        first, after = bisect_left(counts, count), bisect_right(counts, count)
        if after - first > 1:
            own = bisect_left(words, word, first, after)
            drawn = first + _drawn(seed, "word", number, after - first - 1)
            return words[drawn + (drawn >= own)]
        below, above = first - 1, after
        if below < 0 or above == len(words):
            return words[above if below < 0 else below]
        return words[below if count / counts[below] <= counts[above] / count else above]


def _look(word: str) -> str:
    """What a glance sees of a word, so that a twin is not given away by its letters' case or script."""
    if len(word) == 1 and not word.isupper() and not word.islower():
        return "numeral" if word.isnumeric() and word.isascii() else "character"
    if word[0].isnumeric():
        return "numeral"
    if word.isupper() and len(word) > 1:
        return "capitals"
    return "capital" if word[0].isupper() else "small"


def _first(documents: Documents) -> Documents:
    """Documents until there are enough bytes of them."""
    left = MOST_BYTES
    for sentences in documents:
        if left <= 0:
            return
        yield sentences
        left -= sum(len(sentence.encode()) for sentence in sentences)


def corpus_pairs(model: LanguageModel, asked: Asked) -> Measured:
    """Share of held-out sentences that score higher than their damaged twins, in percent.

    The figure is the mean over the two groups, ``swap`` and ``replace``; sentences are scored as those of
    ``minimal_pairs``. Chance is 50. The text is ``text=``, or the run's own validation text.

    Raises:
        LmzooError: there is no text.
    """
    engine = model.engine
    reason = why_no_likelihood(engine)
    if reason is not None:
        return Measured(None, UNIT, True, "none", reason=reason)
    twins = made_pairs(_first(documents_of(asked, MOST_BYTES)()), asked.seed)[: asked.limit]
    if not twins:
        why = f"the text has no sentence of {FEWEST_WORDS} to {MOST_WORDS} words that gives two twins"
        return Measured(None, UNIT, True, "none", reason=why)
    outcomes, items = Outcomes(ways_of(engine)), []
    texts = chain.from_iterable((each.sentence, each.swap, each.replace) for each in twins)
    scores = sentence_scores(engine, texts, batch_tokens=asked.batch_tokens)
    with slow_progress("corpus pairs", len(twins)) as advance:
        for each in twins:
            good = next(scores)
            outcomes.see(good)
            for group in GROUPS:
                bad = next(scores)
                outcomes.see(bad)
                said = {"id": f"{group}/{each.id}", "group": group}
                made = {"sentence_good": each.sentence, "sentence_bad": getattr(each, group)}
                items.append(said | outcomes.add(group, good, bad) | made)
            advance(1)
    again = ((item["group"], item["sentence_good"], item["sentence_bad"]) for item in items)
    beside, _ = judged_by_control(engine, asked, again, items)
    equal = sum(each.counts[0] == each.counts[1] for each in twins)
    parts: dict[str, Any] = {
        "groups": {group: outcomes.accuracy(groups=[group]) for group in GROUPS},
        "ways": {way: outcomes.accuracy(way) for way in outcomes.ways},
        "sentences": len(twins),
        "replaced_by_a_word_of_equal_count": equal,
        **outcomes.told(),
        "chance": 50.0,
        "ngram": beside,
    }
    own = asked.text is None
    settings = settings_of(engine) | {
        "text": "the run's own validation text" if own else asked.text.name,  # type: ignore[union-attr]
        "seed": asked.seed,
        "most_bytes": MOST_BYTES,
        "figure": "mean over groups",
    }
    if own and not engine.tokenizer.lossless:
        settings["note"] = "the tokenizer does not give the text back: the sentences are what it gives"
    inputs = (item["sentence_good"] + "\t" + item["sentence_bad"] for item in items)
    return Measured(outcomes.accuracy(), UNIT, True, "accuracy", parts, settings, items, hash_of(inputs))
