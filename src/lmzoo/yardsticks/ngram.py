"""A control that has only counted: an n-gram model with interpolated modified Kneser-Ney smoothing.

Chen and Goodman 1999, *An empirical study of smoothing techniques for language modeling*, section 4.2:
P(w | h) = (c(h w) - D(c(h w))) / sum over v of c(h v) + gamma(h) P(w | h shortened by its first token), with
three discounts an order by counts 1, 2 and from 3 on (their equation 26). Below the highest order c is the
number of different tokens that stand before h w; where h w begins a document, nothing does, and each time
counts. At the bottom is the uniform distribution over the vocabulary, so every token has a probability.

An n-gram has a number: its place among the sorted n-grams of its length. It is looked up by the number of
its first n - 1 tokens and its last token, so counting is sorting and looking up is bisection, in numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmzoo.data.store import Part
from lmzoo.errors import LmzooError
from lmzoo.inference.sources import slow_progress

ORDER = 5
MOST_TOKENS = 4_000_000
"""Of a training part, from its beginning: a million takes a second and 120 MB of memory, and BLiMP is then
scored in seconds; more of it is a little better, and slower."""
_FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where a text is too short to estimate them, as KenLM has them."""


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length."""

    keys: np.ndarray
    """(N,) int64 sorted: number of the first n - 1 tokens × V + the last token. Of single tokens, none."""
    own: np.ndarray
    """(N,) float32: the discounted share of the n-gram among those that begin alike."""
    left: np.ndarray
    """(M,) float32 gamma by the number of the first n - 1 tokens: what is left for the shorter ones."""


class NgramModel:
    """Probabilities of tokens after the n - 1 before them in their document."""

    def __init__(self, vocab_size: int, orders: list[_Order], discounts: list[tuple[float, ...]]) -> None:
        """Made by ``train``."""
        self.vocab_size = vocab_size
        self._orders = orders
        self.discounts = discounts
        """D1, D2 and D3+ of every order, the shortest n-grams first."""

    @property
    def order(self) -> int:
        return len(self._orders)

    @classmethod
    def train(
        cls, ids: np.ndarray, vocab_size: int, order: int = ORDER, *, starts: np.ndarray | None = None
    ) -> NgramModel:
        """Count a text.

        Args:
            ids: (N,) token ids of documents one after another, each with a first token that is given
                ([CLS]) and is never predicted, and perhaps a last that is predicted like any ([SEP]).
            vocab_size: V; every id below it has a probability.
            order: tokens of the longest n-grams.
            starts: (documents,) where each document starts, rising from 0; without it there is one.

        Raises:
            LmzooError: the order is not positive, there is nothing to predict, or an id is outside of the
                vocabulary.
        """
        tokens, is_start = _checked(ids, vocab_size, starts)
        if order < 1:
            raise LmzooError(f"order={order} of an n-gram model is not positive; 5 is usual")
        if is_start.all():
            raise LmzooError("an n-gram model needs documents of two tokens or more, and has none")
        keys: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        counts: list[np.ndarray] = []
        shorter = tokens.astype(np.int32)  # number of the n-gram that ends here, -1 where none does
        if order == 1:
            counts.append(np.bincount(tokens[~is_start], minlength=vocab_size))
        with slow_progress("n-grams", order) as advance:
            for length in range(2, order + 1):
                ends = _ends(shorter, is_start)
                pairs = shorter[ends - 1] * np.int64(vocab_size) + tokens[ends]
                found, number, times = np.unique(pairs, return_inverse=True, return_counts=True)
                counts.append(_before(shorter, ends, number, len(found), is_start, _size(keys, vocab_size)))
                longer = np.full(len(tokens), -1, dtype=np.int32)
                longer[ends] = number
                keys.append(found)
                shorter = longer
                if length == order:
                    counts.append(times)
                advance(1)
        sizes = [1, vocab_size, *(len(found) for found in keys[1:])]
        parts = [
            _smoothed(found, count, vocab_size, contexts)
            for found, count, contexts in zip(keys, counts, sizes, strict=False)
        ]
        return cls(vocab_size, [part for part, _ in parts], [discounts for _, discounts in parts])

    def log_probabilities(self, ids: np.ndarray, *, starts: np.ndarray | None = None) -> np.ndarray:
        """(N,) float64 nats of every token after those before it; 0 for a document's first, which is given.

        Args:
            ids: (N,) as ``train`` takes them.
            starts: (documents,) where each document starts; without it there is one.

        Raises:
            LmzooError: an id is outside of the vocabulary.
        """
        tokens, is_start = _checked(ids, self.vocab_size, starts)
        found = np.full(len(tokens), 1.0 / self.vocab_size)
        number = np.full(len(tokens), -1, dtype=np.int64)  # of the n-gram that ends here
        before = np.zeros(len(tokens), dtype=np.int64)  # number of what its last token follows
        for length, order in enumerate(self._orders, 1):
            if length > 1:
                before = np.where(is_start, -1, np.append(-1, number[:-1]))
            known = before >= 0
            if length == 1:
                number = tokens
            else:
                number = np.full(len(tokens), -1, dtype=np.int64)
                number[known] = _places(order.keys, before[known] * self.vocab_size + tokens[known])
            seen = number >= 0
            found[known] *= order.left[before[known]]
            found[seen] += order.own[number[seen]]
        found[is_start] = 1.0
        return np.log(found)

    def scores(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """(n,) float64 nats of rows (sentences, blocks of text), each a document whose first token is given.

        Raises:
            LmzooError: a row is empty, or an id is outside of the vocabulary.
        """
        if not len(rows):
            return np.zeros(0)
        lengths = np.array([len(row) for row in rows])
        if not lengths.all():
            raise LmzooError(f"row {int(lengths.argmin())} has no tokens; begin every row with [CLS]")
        starts = np.cumsum(lengths) - lengths
        ids = np.fromiter((token for row in rows for token in row), dtype=np.int64, count=int(lengths.sum()))
        return np.add.reduceat(self.log_probabilities(ids, starts=starts), starts)


def train_on_part(
    part: Part, vocab_size: int, order: int = ORDER, *, most_tokens: int = MOST_TOKENS
) -> tuple[NgramModel, int]:
    """An n-gram model of a prepared corpus's training part, and how many of its tokens were counted.

    A part that is longer than ``most_tokens`` is counted up to there.

    Raises:
        LmzooError: as ``NgramModel.train``.
    """
    count = min(part.num_tokens, most_tokens)
    starts = part.documents[:-1]
    tokens = np.asarray(part.tokens[:count])
    return NgramModel.train(tokens, vocab_size, order, starts=starts[starts < count]), count


def _checked(ids: np.ndarray, vocab_size: int, starts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 ids, and (N,) bool where documents start."""
    tokens = np.asarray(ids).astype(np.int64)
    is_start = np.zeros(len(tokens), dtype=bool)
    if len(tokens):
        is_start[0] = True
        is_start[starts if starts is not None else 0] = True
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        outside = tokens.max() if tokens.max() >= vocab_size else tokens.min()
        raise LmzooError(f"the id {outside} is outside of the vocabulary of {vocab_size}; give its tokenizer")
    return tokens, is_start


def _size(keys: list[np.ndarray], vocab_size: int) -> int:
    """How many n-grams there are of the longest length so far."""
    return len(keys[-1]) if len(keys) > 1 else vocab_size


def _ends(shorter: np.ndarray, is_start: np.ndarray) -> np.ndarray:
    """Where n-grams end that are one token longer than ``shorter``'s, inside their documents."""
    return 1 + np.flatnonzero((shorter[:-1] >= 0) & ~is_start[1:])


def _before(
    shorter: np.ndarray, ends: np.ndarray, number: np.ndarray, found: int, is_start: np.ndarray, size: int
) -> np.ndarray:
    """(size,) how many different tokens stand before each n-gram; once each time it begins a document.

    Args:
        shorter: (N,) number of the n-gram that ends at a place.
        ends: where one longer by a token ends, which is one that has a token before it.
        number: of these longer ones.
        found: how many different ones there are of them.
        is_start: (N,) where documents start.
        size: how many n-grams there are.
    """
    last = np.empty(found, dtype=np.int32)
    last[number] = shorter[ends]  # a longer one always ends in the same shorter one
    counts = np.bincount(last, minlength=size)
    begins = shorter >= 0
    begins[ends] = False  # what is left has nothing before it
    begins &= ~is_start  # a document's first token is given
    return counts + np.bincount(shorter[begins], minlength=size)


def _smoothed(
    keys: np.ndarray, counts: np.ndarray, vocab_size: int, contexts: int
) -> tuple[_Order, tuple[float, ...]]:
    """Shares and what is left, from the counts of n-grams of one length."""
    discounts = _discounts(counts)
    context = keys // vocab_size if len(keys) else np.zeros(len(counts), dtype=np.int64)
    total = np.bincount(context, counts, contexts)
    discount = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    held_back = np.bincount(context, discount, contexts)
    with np.errstate(invalid="ignore"):
        left = np.where(total > 0, held_back / total, 1.0)  # never gone on with: all is left
    own = (counts - discount) / total[context]
    return _Order(keys, own.astype(np.float32), left.astype(np.float32)), discounts


def _discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """D1, D2 and D3+ (Chen and Goodman 1999, equation 26), from how many n-grams have counts 1 to 4."""
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return _FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return found if all(0 < d <= most for d, most in zip(found, (1, 2, 3), strict=True)) else _FALLBACK


def _places(keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Where each asked key stands among the sorted ones, -1 where it does not."""
    if not len(keys):
        return np.full(len(asked), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[places] == asked, places, -1)
