"""Rows as transformers gives them: documents and positions from masks, losses from labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lmzoo.types import NO_DOCUMENT

IGNORED = -100
"""Label of a position that is not predicted."""


def numbered(input_ids: Tensor, attention_mask: Tensor | None, documents: Tensor | None) -> Tensor:
    """(B, T) document numbers, ``NO_DOCUMENT`` where a row is padded."""
    if documents is None:
        documents = torch.zeros_like(input_ids)
    return documents if attention_mask is None else documents.masked_fill(attention_mask == 0, NO_DOCUMENT)


def positions_in(documents: Tensor) -> Tensor:
    """(B, T) positions within each document, from 0; 0 at padding."""
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    since = places - torch.where(starts, places, 0).cummax(dim=1).values
    return since.masked_fill(documents == NO_DOCUMENT, 0)


def pooled(streams: Sequence[Tensor], documents: Tensor) -> Tensor:
    """What stands for whole rows.

    Args:
        streams: (B, T, D) states, or past and future.
        documents: (B, T) document numbers.

    Returns:
        (B, S·D) the state of a row's first token; of two streams, each where it has read the whole row.
    """
    rows = torch.arange(len(documents), device=documents.device)
    is_text = (documents != NO_DOCUMENT).int()
    first = is_text.argmax(dim=1)
    if len(streams) == 1:
        return streams[0][rows, first]
    past, future = streams
    last = documents.shape[1] - 1 - is_text.flip(1).argmax(dim=1)
    return torch.cat([past[rows, last], future[rows, first]], dim=-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """() mean nats over the labels that are not ``IGNORED``."""
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED)


def next_token_loss(logits: Tensor, labels: Tensor, documents: Tensor) -> Tensor:
    """() mean nats of each position's next token, where that lies in the same document."""
    together = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] != NO_DOCUMENT)
    return cross_entropy(logits[:, :-1], labels[:, 1:].masked_fill(~together, IGNORED))
