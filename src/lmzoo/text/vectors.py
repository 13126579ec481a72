"""Word vectors out of a text file of word2vec, fastText or GloVe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from lmzoo.errors import LmzooError
from lmzoo.progress import progress
from lmzoo.text.packed import open_unpacked

_LOOKED_AT = 100
_ENDS = b" \r\n"
_DIGITS = 18
"""Of a number in the first line; a longer one counts nothing."""


class VectorFile:
    """A file of one word a line, followed by its numbers, all parted by single spaces.

    word2vec and fastText put a line "words dimension" in front; GloVe does not, and some of its words have
    spaces inside, so that a line is read from its right. Packed as ``.gz``, ``.xz`` or ``.zst`` it is read
    too. Bytes that are not UTF-8, which fastText's words may have, are no obstacle: such a word is nobody's.

    Raises:
        LmzooError: no such file, an empty one, or one whose first lines are no vectors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise LmzooError(f"{path} is a folder; give a text file of word vectors")
        with open_unpacked(path) as (lines, _):
            first = [line.rstrip(_ENDS) for line in islice(lines, _LOOKED_AT)]
        if not any(first):
            raise LmzooError(f"{path} is empty; give a text file of word vectors")
        self._promised = _header(first[0])
        """Words that the header promises; None where there is no header."""
        if self._promised is not None:
            self.dimension: int = int(first[0].split()[1])
            """Numbers a word."""
        else:
            # the most frequent count: the first word may be one with spaces, or its line cut
            ((count, _),) = Counter(line.count(b" ") for line in first if line).most_common(1)
            self.dimension = count
        if self.dimension < 1:
            raise LmzooError(f"{path}:1 has no vector after its word; give a text file of word vectors")

    def find(self, words: Collection[str]) -> dict[str, np.ndarray]:
        """The vectors of those words that the file has; of a word that it has twice, the first.

        One pass, which ends when all are found. Every line that is passed must have the right number of
        values; whether they are numbers is seen for the words that are asked for.

        Args:
            words: as they stand in the file.

        Returns:
            (dimension,) float32 by word.

        Raises:
            LmzooError: a line with another number of values, a value that is no finite number, or fewer
                lines than the header promises; file and line are named.
        """
        wanted = {word.encode("utf-8", "surrogatepass"): word for word in words}
        found: dict[str, np.ndarray] = {}
        if not wanted:
            return found
        with progress(f"reading {self.path.name}", self.path.stat().st_size) as advance:
            for number, word, values in self._lines(advance):
                if word in wanted:
                    found[wanted.pop(word)] = self._vector(number, values)
                    if not wanted:
                        break
        return found

    def _lines(self, advance: Callable[[float], None]) -> Iterator[tuple[int, bytes, bytes]]:
        """Number, word and values of every line."""
        dimension, has_header = self.dimension, self._promised is not None
        told = count = 0
        with open_unpacked(self.path) as (lines, raw):
            for number, line in enumerate(lines, 1):
                if number == 1 and has_header:
                    continue
                line = line.rstrip(_ENDS)
                spaces = line.count(b" ")
                if spaces == dimension:
                    word, _, values = line.partition(b" ")
                elif not line:
                    continue
                else:
                    word, values = self._spaced(number, line, spaces)
                count += 1
                yield number, word, values
                if not count % 1000:
                    advance(raw.tell() - told)
                    told = raw.tell()
        if self._promised is not None and count < self._promised:
            raise LmzooError(
                f"{self.path} ends after {count:,} words, and its first line promises {self._promised:,}; "
                "fetch it again"
            )

    def _spaced(self, number: int, line: bytes, spaces: int) -> tuple[bytes, bytes]:
        """A word with spaces inside, as GloVe has them, and its values."""
        parts = line.rsplit(b" ", self.dimension)
        inner = parts[0].split(b" ")[1:]
        if spaces < self.dimension or self._promised is not None or any(map(_is_number, inner)):
            raise LmzooError(
                f"{self.path}:{number} has {spaces} values after its word instead of {self.dimension}; "
                "fetch the file again"
            )
        return parts[0], b" ".join(parts[1:])

    def _vector(self, number: int, values: bytes) -> np.ndarray:
        try:
            vector = np.array([float(value) for value in values.split(b" ")], dtype=np.float32)
        except ValueError as error:
            raise LmzooError(f"{self.path}:{number} has a value that is no number ({error})") from None
        if not np.isfinite(vector).all():
            raise LmzooError(f"{self.path}:{number} has a value that is no finite number")
        return vector


def _header(line: bytes) -> int | None:
    """How many words a first line of "words dimension" promises; None where it is no such line."""
    parts = line.split(b" ")
    is_header = len(parts) == 2 and all(part.isdigit() and len(part) <= _DIGITS for part in parts)
    return int(parts[0]) if is_header else None


def _is_number(value: bytes) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
