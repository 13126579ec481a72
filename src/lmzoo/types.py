"""The words that every room shares: contexts, batches, hidden states, loss terms.

Legend of the shapes, here and everywhere: ``B`` rows of a batch, ``T`` positions of a row, ``D`` the
hidden size, ``V`` the vocabulary, ``N`` predicted positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # config files import this module, and a refusal must not wait for torch
    import torch
    from torch import Tensor


class Context(Enum):
    """What a position may see."""

    PAST = "past"
    """Itself and the positions before it (causal)."""
    FULL = "full"
    """Every position."""
    APART = "apart"
    """Past and future in two streams that never meet (ELMo)."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens, and the size of the vocabulary they stand in."""

    vocab_size: int
    pad: int = 0
    unk: int = 1
    cls: int = 2
    sep: int = 3
    mask: int = 4

    @property
    def ids(self) -> tuple[int, ...]:
        return (self.pad, self.unk, self.cls, self.sep, self.mask)


NO_DOCUMENT = -1
"""Document number of a padded position."""


@dataclass(frozen=True)
class Batch:
    """Rows of token ids, as the data rooms hand them over; nothing in it is masked or shifted yet."""

    tokens: Tensor
    """(B, T) int64 token ids; ``pad`` where there is no text."""
    documents: Tensor
    """(B, T) int64 number of the document within its row, 0 first; ``NO_DOCUMENT`` is padding."""
    positions: Tensor
    """(B, T) int64 position within the document's part of the row, from 0."""
    samples: Tensor
    """(B,) int64 number that keys each row's random draws: in training the row's place in the whole
    run (step × global batch + slot), in validation the row's index."""
    segments: Tensor | None = None
    """(B, T) int64 0 for segment A, 1 for segment B; None where the view has no pairs."""
    is_random: Tensor | None = None
    """(B,) int64 NSP label: 0 where B follows A, 1 where B was drawn from another document."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self._map(lambda tensor: tensor.pin_memory())

    def num_tokens(self) -> Tensor:
        """() int64 positions that are not padding."""
        return (self.documents != NO_DOCUMENT).sum()

    def split(self, rows: int) -> Iterator[Batch]:
        """Consecutive parts of at most ``rows`` rows."""
        for start in range(0, len(self), rows):
            yield self._map(lambda tensor, start=start: tensor[start : start + rows])

    def replace(self, **changes: Tensor) -> Batch:
        """The same batch with other tensors for some of its fields."""
        return replace(self, **changes)

    def _map(self, function) -> Batch:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: function(v) for k, v in given.items() if v is not None})


@dataclass(frozen=True)
class Hidden:
    """What a backbone gives: one stream of states, or two that never meet.

    ``states`` for ``PAST`` and ``FULL``; ``past`` and ``future`` for ``APART``, where ``past`` at a
    position has seen that position and all before it, ``future`` that position and all after it.
    Two streams are two fields, so that no code has to know where to cut one tensor apart.
    """

    context: Context
    states: Tensor | None = None
    """(B, T, D)"""
    past: Tensor | None = None
    """(B, T, D)"""
    future: Tensor | None = None
    """(B, T, D)"""

    @property
    def streams(self) -> tuple[Tensor, ...]:
        """The streams there are: one, or past and future."""
        return tuple(s for s in (self.states, self.past, self.future) if s is not None)


@dataclass(frozen=True)
class LossTerm:
    """A loss as a sum with its count: divided once, by the count of the whole global batch."""

    total: Tensor
    """() sum of the losses, in nats."""
    count: Tensor
    """() number of predictions in the sum."""
    correct: Tensor | None = None
    """() number of right first guesses; None where they were not counted."""
