"""Vectors of given words in their contexts, from every layer at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from lmzoo.inference.engine import BATCH_TOKENS, BUCKET_CHARACTERS, Engine, by_length
from lmzoo.inference.reading import Readings
from lmzoo.text.tokenizer import TextTokenizer
from lmzoo.types import Trace

Span = tuple[int, int]
"""Start and end of a word in its text, in characters."""
_CHARACTERS = BUCKET_CHARACTERS // 32
"""Of the texts that are held together: a text may want all of its words, from every layer."""
_TEXTS_MEASURED = 512
"""Texts whose tokens are counted together, to find those that are too long."""
ROUNDED = 6
"""Decimals of a cosine. Batches change the last bits, and vectors that are equal must stay equal: a word's
static vector has cosine 1 with itself, which no threshold may cut."""


@dataclass(frozen=True)
class WordVectors:
    """The wanted words of one text, S of them."""

    vectors: np.ndarray
    """(S, L, D) float32, the embedding first among the layers: a word's mean over its pieces, NaN where it
    has none. Two streams lie side by side, past before future, so that D is twice the hidden size."""
    has_pieces: np.ndarray
    """(S,) bool; a word may become no piece (control characters), or lie outside of what was read."""
    is_unknown: np.ndarray
    """(S,) bool, whether a piece of it is read as the unknown token, whatever it spells."""
    was_cut: bool
    """Whether the text was longer than the model reads, and only what is around the words was read."""


def most_tokens(engine: Engine, seq_len: int) -> int:
    """Tokens of a text at most, special ones not counted: what rows had in training, or the positions."""
    most = max(1, seq_len - engine.opening - engine.ends)
    return most if engine.reader.max_tokens is None else min(most, engine.reader.max_tokens)


def stream_word_vectors(
    engine: Engine,
    wanted: Iterable[tuple[str, Sequence[Span]]],
    *,
    most: int,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[WordVectors]:
    """The vectors of some words of each text, in order; memory does not grow with the number of texts.

    Args:
        engine: the model.
        wanted: texts, each with the places of its words. A piece belongs to the words that it shares a
            character with.
        most: tokens of a text at most (see ``most_tokens``); of a longer one, as many around its words.
        batch_tokens: tokens of a batch, padding included.

    Raises:
        LmzooError: ``batch_tokens`` is not positive.
    """
    waiting: deque[tuple[Sequence[Span], bool]] = deque()

    def texts() -> Iterator[str]:
        for text, spans, was_cut in _fitted(engine.tokenizer, wanted, most):
            waiting.append((spans, was_cut))
            yield text

    for readings in engine.buckets(texts(), characters=_CHARACTERS, offsets=True, truncate=True):
        held = [waiting.popleft() for _ in readings.texts]
        yield from _read(engine, readings, held, batch_tokens)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of vectors along the last axis, in float64; see ``ROUNDED``. NaN where a vector is NaN."""
    return np.round((units(a) * units(b)).sum(-1), ROUNDED)


def units(vectors: np.ndarray) -> np.ndarray:
    """The vectors (…, D) at length 1, in float64; zero stays zero."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _fitted(
    tokenizer: TextTokenizer, wanted: Iterable[tuple[str, Sequence[Span]]], most: int
) -> Iterator[tuple[str, Sequence[Span], bool]]:
    """Texts of at most ``most`` tokens with their words, and whether each was cut."""
    source = iter(wanted)
    while held := list(islice(source, _TEXTS_MEASURED)):
        lengths = map(len, tokenizer.encode_batch([text for text, _ in held]))
        for (text, spans), length in zip(held, lengths, strict=True):
            if length <= most or not spans:
                yield text, spans, False
            else:
                yield *_window(tokenizer, text, spans, most), True


def _window(
    tokenizer: TextTokenizer, text: str, spans: Sequence[Span], most: int
) -> tuple[str, Sequence[Span]]:
    """As much of a text around its words as ``most`` tokens hold; the words' places in it."""
    room = most
    while True:
        places = tokenizer.encode_with_offsets([text])[0][1]
        if len(places) <= most:
            return text, spans
        centre = (min(start for start, _ in spans) + max(end for _, end in spans)) / 2
        middle = sum(end <= centre for _, end in places)
        first = max(0, min(middle - room // 2, len(places) - room))
        begin, end = places[first][0], places[first + room - 1][1]
        if end - begin == len(text):  # one character of many pieces
            return text, spans
        text = text[begin:end]
        spans = [(start - begin, stop - begin) for start, stop in spans]
        room = max(1, room - 1)  # a part may have more pieces than it had inside the whole


def _read(
    engine: Engine, readings: Readings, held: Sequence[tuple[Sequence[Span], bool]], batch_tokens: int
) -> list[WordVectors]:
    """The words of every text that was read, in order."""
    rows = [engine.row(inputs) for inputs in readings.inputs]
    pieces = [_pieces(readings, i, spans) for i, (spans, _) in enumerate(held)]
    found: list[WordVectors | None] = [None] * len(rows)
    for group in by_length([len(row) for row in rows], batch_tokens):
        words = [(place, indices) for place, i in enumerate(group) for indices in pieces[i]]
        vectors = _pooled(engine, [rows[i] for i in group], readings, words)
        done = 0
        for i in group:
            mine = vectors[done : done + len(pieces[i])]
            done += len(pieces[i])
            unknown = [_is_unknown(engine, readings, i, indices) for indices in pieces[i]]
            has_pieces = np.array([len(indices) > 0 for indices in pieces[i]], dtype=bool)
            found[i] = WordVectors(mine.copy(), has_pieces, np.array(unknown, dtype=bool), held[i][1])
    return found  # type: ignore[return-value]


def _pieces(readings: Readings, number: int, spans: Sequence[Span]) -> list[np.ndarray]:
    """Places among a text's tokens of the pieces of each word."""
    offsets = np.array(readings.offsets[number], dtype=np.int64).reshape(-1, 2)
    return [np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start)) for start, end in spans]


def _is_unknown(engine: Engine, readings: Readings, number: int, indices: np.ndarray) -> bool:
    ids, inputs = readings.ids[number], readings.inputs[number]
    unknown = engine.tokenizer.unknown_ids
    return any(ids[i] in unknown and inputs[i] == ids[i] for i in indices)  # else spelt, or out of a file


def _pooled(
    engine: Engine, rows: list[list[int]], readings: Readings, words: list[tuple[int, np.ndarray]]
) -> np.ndarray:
    """(W, L, D) float32: of each word, given by its row and its tokens there, the mean over its pieces."""
    batch = engine.batch(rows, readings)
    length = batch.tokens.shape[1]
    places = [row * length + engine.opening + int(i) for row, indices in words for i in indices]
    owners = np.repeat(np.arange(len(words)), [len(indices) for _, indices in words])
    counts = np.array([len(indices) for _, indices in words], dtype=np.float32).reshape(-1, 1, 1)
    trace = Trace()
    with engine.running():
        engine.backbone(batch, trace)
        chosen = torch.tensor(places, dtype=torch.long, device=engine.device)
        owner = torch.from_numpy(owners).to(engine.device)
        sums = []
        for streams in trace.layers:
            states = torch.cat([stream.flatten(0, 1)[chosen] for stream in streams], dim=-1).float()
            sums.append(states.new_zeros(len(words), states.shape[-1]).index_add_(0, owner, states))
        total = torch.stack(sums, dim=1).cpu().numpy()
    with np.errstate(invalid="ignore"):
        return total / counts
