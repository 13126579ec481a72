"""Classes of words that a vocabulary does not have: numbers, capitalised words, and the rest.

A word-level model sees of an unknown word only its class. Telling these three apart is the coarsest of the
signatures by which parsers have long told unknown words apart.
"""

from __future__ import annotations

import unicodedata

NUMBER, CAPITAL = "[UNK_NUMBER]", "[UNK_CAPITAL]"
CLASSES = (NUMBER, CAPITAL)
"""The classes beside ``[UNK]``, which is for the rest. A vocabulary has them if it has these tokens."""


def class_of(word: str) -> str | None:
    """The class of a word: ``NUMBER``, ``CAPITAL``, or None for the rest.

    The first letter or numeral decides, whatever signs and currency symbols stand before it. A numeral
    (Unicode's Nd, Nl and No) makes a number: ``1984``, ``3rd``, ``−5``, ``€20``, ``½``, ``Ⅳ``. A capital or
    title-case letter (Lu, Lt) makes a capitalised word: ``Zürich``, ``B52``, ``ǅungla``. All else is the
    rest: ``florid``, ``i18n``, ``龘`` and the Chinese numerals, which are letters (Lo), and words without
    letter and numeral.
    """
    for character in word:
        category = unicodedata.category(character)
        if category[0] == "N":
            return NUMBER
        if category[0] == "L":
            return CAPITAL if category in ("Lu", "Lt") else None
    return None
