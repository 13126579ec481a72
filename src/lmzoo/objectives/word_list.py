"""Words of several tokens by a list: forward longest match over the ids of a batch, on its device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lmzoo import rng
from lmzoo.types import Batch

MOST_PARTED = 63
"""Tokens of a stretch of several words: one bit each."""
_KEY = rng.key("word list")
_ONE_WORD = -2
"""The bits of an entry that is one word, however long: all of its tokens but the first go on with it."""

Stretch = tuple[int, ...]
"""Ids of tokens in a row."""


class WordList(nn.Module):
    """Sequences of ids that make a word, or several words in a row, known by their 64-bit hashes."""

    def __init__(
        self, words: Iterable[Sequence[int]], parted: Mapping[Stretch, Sequence[int]] | None = None
    ) -> None:
        """
        Args:
            words: ids of each word; those of one id say nothing and are left out.
            parted: stretches of at most ``MOST_PARTED`` tokens that are several words, with the lengths of these;
                they take the place of a word of the same ids.
        """
        super().__init__()
        self.agreement: float | None = None
        """Of a list out of text whose words are parted, the share of those that it finds."""
        self.left_out = 0
        """Of a list out of a file, how many of its words are too long for it."""
        entries = {tuple(word): _ONE_WORD for word in words if len(word) > 1}
        entries |= {stretch: _bits(lengths) for stretch, lengths in (parted or {}).items()}
        self.longest = max(map(len, entries), default=1)
        hashes, bits = _hashed(entries)
        self.hashes: Tensor
        self.bits: Tensor
        self.register_buffer("hashes", hashes, persistent=False)
        self.register_buffer("bits", bits, persistent=False)

    def __len__(self) -> int:
        return len(self.hashes)

    def insides(self, batch: Batch) -> Tensor:
        """(B, T) bool, True where a token goes on with a word of the list that began before it.

        A row is walked from its beginning: of the entries that begin at a token the longest is taken, and the walk
        goes on behind it. None reaches into another document.
        """
        tokens, documents = batch.tokens, batch.documents
        rows, length = tokens.shape
        own = torch.arange(length, device=tokens.device)
        ahead, bits = (own + 1).repeat(rows, 1), torch.zeros_like(tokens)
        hashed = rng.bits(_KEY, tokens)
        for size in range(2, min(self.longest, length) + 1):
            hashed = rng.bits(hashed[:, :-1], tokens[:, size - 1 :])
            found = torch.searchsorted(self.hashes, hashed).clamp_(max=len(self.hashes) - 1)
            known = self.hashes[found] == hashed
            known &= documents[:, size - 1 :] == documents[:, : length - size + 1]
            for held, longer in ((ahead, own[: length - size + 1] + size), (bits, self.bits[found])):
                shorter = held[:, : length - size + 1]
                shorter.copy_(torch.where(known, longer, shorter))
        begins = torch.where(_walked(ahead), own, 0).cummax(1).values
        return ((bits.gather(1, begins) >> (own - begins).clamp_(max=MOST_PARTED)) & 1).bool()


def _bits(lengths: Sequence[int]) -> int:
    """Of words in a row, bit k says whether token k goes on with the word before it."""
    places = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
    return sum(1 << place for place in range(places[-1]) if place not in places)


def _hashed(entries: Mapping[Stretch, int]) -> tuple[Tensor, Tensor]:
    """(E,) int64 sorted hashes of the entries, and their bits."""
    by_size: dict[int, list[Stretch]] = {}
    for stretch in entries:
        by_size.setdefault(len(stretch), []).append(stretch)
    hashes = [
        rng.bits(_KEY, *torch.tensor(several, dtype=torch.int64, device="cpu").T)
        for several in by_size.values()
    ]
    order = [entries[stretch] for several in by_size.values() for stretch in several]
    found, places = np.unique(
        torch.cat(hashes).numpy() if hashes else np.empty(0, np.int64), return_index=True
    )
    return torch.from_numpy(found), torch.from_numpy(np.array(order, np.int64)[places])


def _walked(ahead: Tensor) -> Tensor:
    """(B, T) bool, the places on the walk 0, ahead[0], ahead[ahead[0]], …, in steps that double.

    Args:
        ahead: (B, T) int64 the next place after each, at most T.
    """
    rows, length = ahead.shape
    jump = torch.cat([ahead, ahead.new_full((rows, 1), length)], dim=1)
    walked = torch.zeros_like(jump)
    walked[:, 0] = 1
    for _ in range(length.bit_length()):
        walked = (walked + torch.zeros_like(walked).scatter_add_(1, jump, walked)).clamp_(max=1)
        jump = jump.gather(1, jump)
    return walked[:, :length].bool()
