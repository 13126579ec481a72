"""Where words lie among tokens, and windows over texts that are longer than a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmzoo.inference.reading import Offsets
from lmzoo.tasks.examples import Tagged


def word_places(item: Tagged, joint: str) -> tuple[str, list[tuple[int, int]]]:
    """A sentence's text, and start and end of each word in it.

    The text is the item's own where its words stand in it in order with nothing but blanks between;
    else the words are joined.
    """
    if item.text is not None:
        places, at = [], 0
        for word in item.words:
            start = item.text.find(word, at)
            if start < 0 or item.text[at:start].strip():
                break
            at = start + len(word)
            places.append((start, at))
        if len(places) == len(item.words):
            return item.text, places
    places, at = [], 0
    for word in item.words:
        places.append((at, at + len(word)))
        at += len(word) + len(joint)
    return joint.join(item.words), places


def pieces_of_words(text: str, offsets: Offsets, words: Sequence[tuple[int, int]]) -> np.ndarray:
    """(W, 2) number of each word's first token and one past its last; -1 where it has none.

    Its first token is the first that begins inside it; a token that began before, as where one token holds
    two words, counts only where there is none.

    Args:
        text: which the places are in.
        offsets: of the tokens; the space before a word may belong to its token.
        words: start and end of each, in order.
    """
    begins = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        begins.append(start)
    found = np.full((len(words), 2), -1, dtype=np.int64)
    first_open = 0
    for number, (start, end) in enumerate(words):
        while first_open < len(offsets) and (
            offsets[first_open][1] <= start or begins[first_open] >= offsets[first_open][1]
        ):
            first_open += 1
        first = last = -1
        token = first_open
        while token < len(offsets) and begins[token] < end:
            if begins[token] < offsets[token][1]:
                if first < 0 or (begins[first] < start <= begins[token]):
                    first = token
                last = token
            token += 1
        if first >= 0:
            found[number] = first, last + 1
    return found


def windows(count: int, room: int, stride: int | None) -> list[tuple[int, int]]:
    """Begin and end of the windows of at most ``room`` over ``count`` tokens; they overlap.

    Args:
        count: tokens of the text.
        room: of a window.
        stride: by how many tokens a window begins after the one before; half of the room by default.
    """
    if count <= room:
        return [(0, count)]
    step = min(stride or max(room // 2, 1), room)
    starts = [*range(0, count - room, step), count - room]
    return [(start, start + room) for start in starts]


def best_windows(bounds: Sequence[tuple[int, int]], tokens: np.ndarray) -> np.ndarray:
    """(N,) the window in which each of the (N,) tokens has most context on its poorer side."""
    begins, ends = np.array(bounds, dtype=np.int64).T[..., None]
    margins = np.minimum(tokens - begins, ends - 1 - tokens)  # (windows, N), below 0 outside
    return margins.argmax(axis=0)
