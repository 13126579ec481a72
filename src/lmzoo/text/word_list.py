"""Words from a file, as ids of a tokenizer: a list, or text whose words are parted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from lmzoo.errors import LmzooError
from lmzoo.text.packed import PACKINGS, open_unpacked
from lmzoo.text.readers import numbered_lines
from lmzoo.text.tokenizer import TextTokenizer

_OTHERWISE = {
    ".jsonl": "give the text of its documents, with spaces between the words, as a .txt file",
    ".conllu": "take its words by awk -F'\\t' '$1 ~ /^[0-9]+$/ {printf \"%s \", $2} /^$/ {print \"\"}'",
}
"""What to do with a file of another form, by its suffix."""
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_NEARLY = 0.9


def read_words(path: Path, tokenizer: TextTokenizer) -> list[list[list[int]]]:
    """Ids of the words of every line of a text file, parted by white space; plain or packed as .gz, .xz or .zst.

    A word that the vocabulary cannot spell is left out, and a line ends before it and begins anew behind it.

    Raises:
        LmzooError: the file is not there, is no UTF-8 text, is damaged, has no word of several tokens, or is
            something else: JSON, CoNLL-U, a dictionary with a number beside each word.
    """
    kind = (path.with_suffix("") if path.suffix in PACKINGS else path).suffix
    if kind in _OTHERWISE:
        raise LmzooError(f"objective.words={path} is read as plain words; {_OTHERWISE[kind]}")
    try:
        with open_unpacked(path) as (file, _):
            lines = [line.split() for _, line in numbered_lines(path, file)]
    except LmzooError as error:
        raise LmzooError(f"objective.words={error}; give a text file") from error
    _refuse_dictionary(path, lines)
    words = sorted({word for line in lines for word in line})
    special = set(tokenizer.special.ids)
    known = {
        word: ids
        for word, ids in zip(words, tokenizer.encode_batch(words), strict=True)
        if ids and not special & set(ids)
    }
    if all(len(ids) < 2 for ids in known.values()):
        raise LmzooError(
            f"objective.words={path} has no word that this vocabulary spells in several tokens; "
            "give a file with one word a line, or a text whose words are parted by spaces, or leave it out"
        )
    return [
        [known[word] for word in several]
        for line in lines
        for is_known, several in groupby(line, known.__contains__)
        if is_known
    ]


def _refuse_dictionary(path: Path, lines: Sequence[Sequence[str]]) -> None:
    """Refuse a list in which a number, and perhaps a part of speech, stands beside the word, as in jieba's."""
    several = [line for line in lines if len(line) > 1]
    numbered = sum(len(line) < 4 and _NUMBER.fullmatch(line[1]) is not None for line in several)
    if several and numbered >= _NEARLY * len(several):
        raise LmzooError(
            f"objective.words={path}: in {numbered:,} of its {len(several):,} lines of several words the second is "
            "a number, as in jieba's dictionaries; a line is a word alone, or a sentence. Take the first column by "
            f"awk '{{print $1}}' {path.name} > words.txt, or leave the space out where a word has one"
        )
