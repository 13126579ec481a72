"""Words in sentences as the files have them, and their vectors: what the yardsticks of senses share."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lmzoo.errors import LmzooError
from lmzoo.inference.model import LanguageModel
from lmzoo.text.packed import open_unpacked
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.word_vectors import Span, most_tokens, stream_word_vectors

STATIC_LAYER = "layer 0: what the embedding gives, with positions where the model adds them there"
"""What the control beside the layers is, for the record."""
_COUNTED = ("texts_cut", "words_without_pieces", "words_read_as_unknown")


def vectors_of_uses(
    model: LanguageModel,
    uses: Iterator[tuple[str, Span]],
    asked: Asked,
    advance: Callable[[int], None],
    counts: Counter[str],
) -> Iterator[np.ndarray]:
    """(L, D) float32 of one word in each text, NaN where it has no pieces.

    Args:
        model: any.
        uses: texts, each with the word's place.
        asked: its ``seq_len`` and ``batch_tokens``.
        advance: told of every text.
        counts: texts that were cut and words that were missing or unknown are added; see ``counted``.
    """
    wanted = ((text, [span]) for text, span in uses)
    most = most_tokens(model.engine, asked.seq_len)
    for found in stream_word_vectors(model.engine, wanted, most=most, batch_tokens=asked.batch_tokens):
        counts["texts_cut"] += found.was_cut
        counts["words_without_pieces"] += int((~found.has_pieces).sum())
        counts["words_read_as_unknown"] += int(found.is_unknown.sum())
        advance(1)
        yield found.vectors[0]


def counted(counts: Counter[str]) -> dict[str, int]:
    """The counts for the record, zeros too."""
    return {name: counts[name] for name in _COUNTED}


def percent(right: np.ndarray) -> float:
    """How many of (n,) bool are true, in per cent; 0 of none."""
    return float(right.mean() * 100) if len(right) else 0.0


def file_of(asked: Asked, yardstick: str, name: str) -> Path:
    """The path of a file under ``root=``.

    Raises:
        LmzooError: no root is given, or the file is not there.
    """
    if asked.root is None:
        raise LmzooError(f"yardstick={yardstick} needs root=FOLDER, a folder that has {name} in it")
    path = asked.root / name
    if not path.is_file():
        raise LmzooError(f"yardstick={yardstick}: {path} is not there; root= is the folder that has {name}")
    return path


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a tab-separated file with a header line and without quoting, each with its ``file:line``.

    Raises:
        LmzooError: a column that is not there, a row of another length, a damaged or empty file.
    """
    with open_unpacked(path) as (unpacked, _):
        text = io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="")  # type: ignore[arg-type]
        rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            header = next(rows, [])
            missing = [name for name in columns if name not in header]
            if missing:
                raise LmzooError(f"{path}:1 has no column {missing[0]}; it needs {', '.join(columns)}")
            empty = True
            for row in rows:
                where = f"{path}:{rows.line_num}"
                if len(row) != len(header):
                    raise LmzooError(f"{where} has {len(row)} columns instead of {len(header)}; mend the row")
                empty = False
                yield where, dict(zip(header, row, strict=True))
            if empty:
                raise LmzooError(f"{path} has no rows under its header; fill it")
        except UnicodeDecodeError:
            raise LmzooError(f"{path} is not UTF-8; convert it") from None
        except csv.Error as error:
            raise LmzooError(f"{path}:{rows.line_num} cannot be read ({error}); mend the row") from None


def word_span(text: str, index: str, where: str) -> Span:
    """Where a word stands in a text, in characters, by its number among those between white space.

    Raises:
        LmzooError: the number is none, or there is no such word.
    """
    words = [match.span() for match in re.finditer(r"\S+", text)]
    if not index.isdecimal() or len(index) > 9 or int(index) >= len(words):
        raise LmzooError(
            f"{where}={index}: the sentence has {len(words)} words between white space; count them from 0"
        )
    return words[int(index)]
