"""Which pieces of a vocabulary make one word with their neighbours."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

from lmzoo.text.spelling import spelling
from lmzoo.types import GOES_ON, IS_GONE_ON


def joints(
    pieces: Mapping[str, int], size: int, special: tuple[int, ...], description: dict[str, Any]
) -> np.ndarray:
    """(V,) uint8 of the two flags for each id; 0 for special tokens.

    Two neighbours are of one word where the first may be gone on with and the second goes on. Where a
    vocabulary marks the inside or the end of its words, the marks say so; else words are runs of letters,
    digits and marks. Chinese characters and kana are words of one character.

    Args:
        pieces: id of every piece.
        size: V.
        special: ids that are no word's part.
        description: the content of the ``tokenizer.json``.
    """
    model = description["model"]
    inside, ending = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    flags = np.zeros(size, dtype=np.uint8)
    if model["type"] == "WordLevel":
        return flags
    for piece, number in pieces.items():
        if inside:
            goes_on, is_gone_on = piece.startswith(inside), True
        else:
            spelt = spelling(piece, description)
            goes_on, is_gone_on = _is_word(spelt, 0), _is_word(spelt, -1)
            if ending:
                is_gone_on = is_gone_on and not piece.endswith(ending)
        flags[number] = goes_on * GOES_ON + is_gone_on * IS_GONE_ON
    flags[list(special)] = 0
    return flags


def _is_word(spelt: bytes, end: int) -> bool:
    """Whether the first (0) or last (-1) character is one of which words are made."""
    if not spelt:
        return False
    try:
        character = spelt.decode()[end]
    except UnicodeDecodeError:  # half a character: its other half belongs to it
        return end == -1 or 0x80 <= spelt[0] < 0xC0
    code = ord(character)
    if 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000:
        return False
    return unicodedata.category(character)[0] in "LNM"
