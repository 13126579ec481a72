"""Answers in their contexts: offsets mended, exact match and F1, and a guess by shared words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

NOT_THERE = -1
"""The start of an answer that its context does not hold."""


def placed(context: str, text: str, start: int | None) -> int:
    """Where an answer begins in its context, in characters: ``start`` if it stands there, else the nearest
    place where it does (without a start the first one), ``NOT_THERE`` if there is none."""
    if start is not None and start >= 0 and text and context.startswith(text, start):
        return start
    found = NOT_THERE
    place = context.find(text) if text else NOT_THERE
    while place != NOT_THERE:
        if found == NOT_THERE or (start is not None and abs(place - start) < abs(found - start)):
            found = place
        place = context.find(text, place + 1)
    return found


# ---------------------------------------------------------------------- exact match and F1 by characters

_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》……·、「」（）－～『』")
"""What CMRC 2018's own evaluation leaves out; these characters and no others."""
_IDEOGRAPH = re.compile("[\u4e00-\u9fa5]")
_LATIN = re.compile(r"\w+(?:[.,]\d+)*|[^\w\s]")


def units(text: str) -> list[str]:
    """An answer as CMRC 2018 counts it: its ideographs one by one, the words between them, no punctuation.

    The words between are cut by a pattern, where the published script asks nltk's tokenizer; on what is not
    Chinese the two may differ, as on "don't" and "U.S.".
    """
    found: list[str] = []
    held = ""
    for character in text.lower().strip():
        if character in _PUNCTUATION:
            continue
        if _IDEOGRAPH.match(character):
            found += [*_LATIN.findall(held), character]
            held = ""
        else:
            held += character
    return [*found, *_LATIN.findall(held)]


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run of units that both hold."""
    best = 0
    row = [0] * (len(second) + 1)
    for unit in first:
        last = row
        row = [0] * (len(second) + 1)
        for j, other in enumerate(second):
            if unit == other:
                row[j + 1] = last[j] + 1
                best = max(best, row[j + 1])
    return best


def character_f1(prediction: str, answer: str) -> float:
    """F1 in [0, 1] of the longest common run (Cui et al. 2019, CMRC 2018's evaluation, version 4)."""
    guessed, true = units(prediction), units(answer)
    common = longest_common(true, guessed)
    if common == 0:
        return 0.0
    precision, recall = common / len(guessed), common / len(true)
    return 2 * precision * recall / (precision + recall)


def character_match(prediction: str, answer: str) -> bool:
    """Whether the two are equal but for case and punctuation."""
    return _bare(prediction) == _bare(answer)


def _bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _PUNCTUATION)


# ---------------------------------------------------------------------- the guess by shared words

_REACHES = {"en": (2, 5, 10), "zh": (4, 10, 20)}
"""Words (characters in Chinese) on either side of a candidate whose overlap with the question counts: near
ones three times, far ones once."""
_TOKENS = {"en": re.compile(r"\w+|[^\w\s]"), "zh": re.compile(r"[A-Za-z0-9]+|\S")}


def _tokens(text: str, language: str) -> list[re.Match[str]]:
    return list(_TOKENS.get(language, _TOKENS["en"]).finditer(text))


def count_tokens(text: str, language: str) -> int:
    """Words and signs of a text; characters of a Chinese one."""
    return len(_tokens(text, language))


def guess_by_overlap(question: str, context: str, length: int, language: str) -> str:
    """The run of ``length`` words, none of them asked, around which the question's words are densest.

    A sliding window after Richardson, Burges and Renshaw (2013, "MCTest", algorithm 1), of three widths: a
    word of the question weighs log(1 + 1 / its count in the context). The first of equal runs is taken.
    """
    tokens = _tokens(context, language)
    words = [token.group().lower() for token in tokens]
    asked = {token.group().lower() for token in _tokens(question, language)}
    counts = Counter(words)
    weights = [math.log(1 + 1 / counts[word]) if word in asked and word.isalnum() else 0.0 for word in words]
    sums = [0.0, *accumulate(weights)]
    free = [0, *accumulate(word.isalnum() and word not in asked for word in words)]
    reaches = _REACHES.get(language, _REACHES["en"])
    for size in range(min(length, len(tokens)), 0, -1):
        best, place = -1.0, None
        for start in range(len(tokens) - size + 1):
            if free[start + size] - free[start] == size:
                score = sum(
                    sums[min(len(tokens), start + size + reach)] - sums[max(0, start - reach)]
                    for reach in reaches
                )
                if score > best + 1e-9:  # sums of one and the same words differ in their last digits
                    best, place = score, start
        if place is not None:
            return context[tokens[place].start() : tokens[place + size - 1].end()]
    return context.strip()
