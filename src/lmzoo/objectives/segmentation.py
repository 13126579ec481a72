"""A list of words out of text whose words are parted: its words, and the stretches where these mislead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby, pairwise

import numpy as np
import torch

from lmzoo.objectives.word_list import Stretch, WordList
from lmzoo.types import Batch

Line = Sequence[Sequence[int]]
"""The words of a sentence, as ids."""
PASSES = 4
"""Over the sentences, at most; each but the last mends what the one before it has left."""
LONGEST_WORD = 24
"""Tokens of a word that is taken. Each batch costs a look-up per token for every length up to the longest, so that
one long address or one sentence that nobody has parted would make every batch dearer."""
LONGEST = 12
"""Tokens of a stretch that is learned; a longer one would make every batch dearer too."""
MOST = 4_000_000
"""Tokens that stretches are learned from, the first ones: some 20 seconds a pass on one core."""
_AT_ONCE = 2**20
"""Tokens that are walked at once."""


def word_list(lines: Sequence[Line]) -> WordList:
    """The words of some sentences, and how the stretches are parted in which their longest match is wrong.

    Where the longest match parts a sentence otherwise than it is, the tokens from the last border that both have
    to the next one become an entry of the list, with the words that they are in the text; being longer, it is
    taken first. What is parted in several ways is parted as it is most often. Of the lists that are made on the
    way, the words alone among them, the one that finds most is given: an entry can mislead the match elsewhere.

    Args:
        lines: sentences; a line of one word is a word and no more. A word of more than ``LONGEST_WORD`` tokens is
            left out: the line ends before it and begins anew behind it.

    Returns:
        the list, which knows the share of the sentences' words that it finds, and how many are left out.
    """
    every = {tuple(word) for word in chain.from_iterable(lines) if len(word) > 1}
    words = {word for word in every if len(word) <= LONGEST_WORD}
    sentences = list(_sentences(_without_long(lines)))
    best = made = WordList(words)
    ways: dict[Stretch, Counter[Stretch]] = {}
    for word in chain.from_iterable(sentences):
        if len(word) > 1:
            ways.setdefault(tuple(word), Counter())[len(word),] += 1
    chosen: dict[Stretch, Stretch] = {}
    for number in range(PASSES if sentences else 0):
        wrong, right = _wrong(made, sentences)
        made.agreement = right / sum(map(len, sentences))
        if best.agreement is None or made.agreement > best.agreement:
            best = made
        before = dict(chosen)
        for stretch, counts in wrong.items():
            known = ways.setdefault(stretch, Counter())
            known |= counts  # a way that was counted before is as frequent as when it was wrong
            chosen[stretch] = max(known, key=lambda lengths, known=known: (known[lengths], lengths))
        if chosen == before or number == PASSES - 1:
            break
        made = WordList(words, {stretch: lengths for stretch, lengths in chosen.items() if len(lengths) > 1})
    best.left_out = len(every) - len(words)
    return best


def _without_long(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines, parted where a word of more than ``LONGEST_WORD`` tokens is left out."""
    for line in lines:
        for is_short, several in groupby(line, lambda word: len(word) <= LONGEST_WORD):
            if is_short:
                yield list(several)


def _sentences(lines: Iterable[Line]) -> Iterator[Line]:
    """The lines of several words, up to ``MOST`` tokens."""
    size = 0
    for line in lines:
        size += sum(map(len, line)) if len(line) > 1 else 0
        if size > MOST:
            return
        if len(line) > 1:
            yield line


def _wrong(made: WordList, sentences: Sequence[Line]) -> tuple[dict[Stretch, Counter[Stretch]], int]:
    """Of each stretch between common borders that the list parts otherwise, the lengths of its words, by how
    often; and how many words the list finds."""
    found: dict[Stretch, Counter[Stretch]] = {}
    right = 0
    for tokens, documents, true in _walks(sentences):
        ids, numbers = (torch.from_numpy(each)[None] for each in (tokens, documents))
        said = ~made.insides(Batch(ids, numbers, numbers, numbers[:, 0]))[0].numpy()
        common = np.flatnonzero(said & true)
        differs = np.logical_or.reduceat(said != true, common)
        right += int((~differs).sum())
        ends = np.append(common[1:], len(tokens))
        for start, end in zip(common[differs].tolist(), ends[differs].tolist(), strict=True):
            if end - start <= LONGEST:
                borders = [*np.flatnonzero(true[start:end]).tolist(), end - start]
                lengths = tuple(after - place for place, after in pairwise(borders))
                found.setdefault(tuple(tokens[start:end].tolist()), Counter())[lengths] += 1
    return found, right


def _walks(sentences: Sequence[Line]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Sentences side by side: (N,) their tokens, the number of each one's sentence, whether it begins a word."""
    held: list[Line] = []
    size = 0
    for number, line in enumerate(sentences, 1):
        held.append(line)
        size += sum(map(len, line))
        if size >= _AT_ONCE or number == len(sentences):
            words = list(chain.from_iterable(held))
            tokens = np.fromiter(chain.from_iterable(words), np.int64, size)
            begins = np.zeros(size, dtype=bool)
            begins[[0, *list(accumulate(map(len, words)))[:-1]]] = True
            yield tokens, np.repeat(np.arange(len(held)), [sum(map(len, each)) for each in held]), begins
            held, size = [], 0
