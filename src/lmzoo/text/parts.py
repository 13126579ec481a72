"""Texts too long to be encoded at once, in parts: an encoding takes some hundred times the memory of its text."""

from __future__ import annotations

from collections.abc import Iterator


def parts_of(text: str, most: int) -> Iterator[str]:
    """Cut a text into parts of at most ``most`` characters, which joined are the text.

    Each cut but those of a last resort is before a space with a letter or a numeral on both sides. There every
    tokenizer that knows words begins one, so that the parts have the pieces of the whole text. Where half of
    ``most`` has no such space, the cut is where the room ends, and may part a word.

    Args:
        text: any.
        most: 2 or more.
    """
    start = 0
    while len(text) - start > most:
        end = _last_gap(text, start + most // 2, start + most)
        yield text[start:end]
        start = end
    yield text[start:]


def _last_gap(text: str, low: int, high: int) -> int:
    place = text.rfind(" ", low, high)
    while place > 0 and not (text[place - 1].isalnum() and text[place + 1].isalnum()):
        place = text.rfind(" ", low, place)
    return place if place > 0 else high
