"""Words from a file, as ids of a tokenizer: a list, or text whose words are parted."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from lmzoo.errors import LmzooError
from lmzoo.text.packed import open_unpacked
from lmzoo.text.readers import numbered_lines
from lmzoo.text.tokenizer import TextTokenizer


def read_words(path: Path, tokenizer: TextTokenizer) -> list[list[list[int]]]:
    """Ids of the words of every line of a text file, parted by white space; plain or packed as .gz, .xz or .zst.

    A word that the vocabulary cannot spell is left out, and a line ends before it and begins anew behind it.

    Raises:
        LmzooError: the file is not there, is no UTF-8 text, is damaged, or has no word of several tokens.
    """
    try:
        with open_unpacked(path) as (file, _):
            lines = [line.split() for _, line in numbered_lines(path, file)]
    except LmzooError as error:
        raise LmzooError(f"objective.words={error}; give a text file") from error
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
