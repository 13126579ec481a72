"""Running text for a yardstick: where it comes from, how much of it, and its tokens as training lays them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lmzoo.errors import LmzooError
from lmzoo.inference.reading import Offsets
from lmzoo.text.readers import read_documents, resolve_paths
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.likelihoods import word_ends

PIECES = 16
"""Documents from which a part of a long text is taken, spread evenly, each from its beginning."""
_ENCODED_CHARACTERS = 2_000_000
"""At a time: an encoding takes a hundred times the memory of its text."""

Documents = Iterable[list[str]]
"""Sentences of every document; joined they are its text."""


def documents_of(asked: Asked, most_bytes: int | None = None) -> Callable[[], Documents]:
    """The sentences of every document of ``text=``, or of the run's validation text.

    Args:
        asked: what was given.
        most_bytes: of the validation text; ``text=`` is taken whole. It bounds texts, not tokens, so that
            every model is measured on the same.

    Returns:
        what gives them, again and again.

    Raises:
        LmzooError: there is neither, or it cannot be read.
    """
    if asked.text is not None:
        paths = resolve_paths(asked.text, "text")
        return lambda: (_sentences(document.text, asked.sentences) for document in read_documents(paths))
    if asked.validation is None:
        raise LmzooError("there is no validation text beside this model; give text=FILE, a held-out text")
    documents = asked.validation()
    chosen = documents if most_bytes is None else bounded(documents, most_bytes)
    return lambda: chosen


def _sentences(text: str, how: str) -> list[str]:
    starts = sentence_spans(text, how)
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]


def bounded(documents: list[list[str]], most_bytes: int) -> list[list[str]]:
    """A part of a text that is longer than this: the beginnings of documents spread evenly over it."""
    sizes = [sum(map(_bytes, document)) for document in documents]
    if sum(sizes) <= most_bytes:
        return documents
    count = min(PIECES, len(documents))
    share, rest = most_bytes // count, most_bytes
    typical = sum(min(size, share) for size in sizes) / len(sizes)
    count = min(len(documents), max(count, int(most_bytes / typical)))  # short ones do not fill a share
    places = np.linspace(0, len(documents) - 1, count).round().astype(int).tolist()
    found = []
    for place in dict.fromkeys(places):
        room = left = min(share, rest)
        taken = []
        for sentence in documents[place]:
            if _bytes(sentence) > left:
                break
            left -= _bytes(sentence)
            taken.append(sentence)
        if not taken and room == share and documents[place]:  # a line without end is cut inside
            taken = [documents[place][0].encode()[:share].decode(errors="ignore")]
            left = 0
        rest -= room - left
        if taken:
            found.append(taken)
    return found


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


# ---------------------------------------------------------------------------------- the stream


@dataclass(frozen=True)
class TextStream:
    """Documents as one stream of tokens, each [CLS] its tokens [SEP]; what a ``StreamView`` looks at in a
    ``Part`` is here too."""

    tokens: np.ndarray
    """(N,) int32."""
    documents: np.ndarray
    """(documents + 1,) int64 where each starts, and the end."""
    special: np.ndarray
    """(N,) bool where a document's [CLS] or [SEP] stands."""
    ends: np.ndarray
    """(N,) int64 place of the last token of each token's word."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def shortened(self, most: int) -> TextStream:
        """Its first tokens; the last document may then lack its end."""
        if self.num_tokens <= most:
            return self
        bounds = np.append(self.documents[self.documents < most], most)
        return TextStream(
            self.tokens[:most], bounds, self.special[:most], np.minimum(self.ends[:most], most - 1)
        )


class NotGivenBack(Exception):
    """A text that the tokenizer does not give back."""


def read_stream(tokenizer: TextTokenizer, documents: Documents, *, words: bool) -> TextStream:
    """Encode documents sentence by sentence, as a prepared corpus is.

    Args:
        tokenizer: lossless.
        documents: sentences of each.
        words: whether the ends of words are wanted.

    Raises:
        NotGivenBack: the tokenizer loses something of the text.
    """
    special = tokenizer.special
    ids, ends = [], []
    for number, sentences in enumerate(documents, 1):
        parts, lasts, length = [np.array([special.cls])], [np.zeros(1, dtype=np.int64)], 1
        for some in _portions(sentences):
            places: Iterable[Offsets]
            if words:
                tokens, places = zip(*tokenizer.encode_with_offsets(some), strict=True)
            else:
                tokens, places = tokenizer.encode_batch(some), [[]] * len(some)
            for text, found, spans in zip(some, tokens, places, strict=True):
                if tokenizer.decode(found) != text:
                    raise NotGivenBack(f"document {number}, which begins {sentences[0][:40]!r}")
                parts.append(np.array(found, dtype=np.int64))
                last = word_ends(text, spans) if words else range(len(found))
                lasts.append(np.array(last, dtype=np.int64) + length)
                length += len(found)
        ids.append(np.concatenate([*parts, [special.sep]]).astype(np.int32))
        ends.append(np.concatenate([*lasts, [length]]))
    bounds = np.cumsum([0, *map(len, ids)])
    is_special = np.zeros(bounds[-1], dtype=bool)
    is_special[bounds[:-1]] = is_special[bounds[1:] - 1] = True
    places_of = [last + start for last, start in zip(ends, bounds[:-1], strict=True)]
    return TextStream(np.concatenate(ids), bounds, is_special, np.concatenate(places_of))


def _portions(sentences: list[str]) -> Iterator[list[str]]:
    """The sentences, some megabytes at a time."""
    held: list[str] = []
    characters = 0
    for sentence in sentences:
        held.append(sentence)
        characters += len(sentence)
        if characters >= _ENCODED_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held
