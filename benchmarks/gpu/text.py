"""The text that ``benchmarks.gpu`` trains on, in rows as they are packed and in rows of one document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.contests import Setting
from lmzoo import rng
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Store
from lmzoo.data.views import build_view
from lmzoo.text.config import TokenizerConfig
from lmzoo.types import Batch


def data_config(text: Path | None) -> DataConfig:
    """A file's text, or that which comes with Python."""
    return DataConfig(source="stdlib") if text is None else DataConfig(source="text", train=str(text))


def prepared(text: Path | None, pieces: int, cache: Path) -> Store:
    """The corpus in ``cache``, cut into ``pieces``."""
    return prepare(data_config(text), TokenizerConfig(vocab_size=pieces), cache)


def packed_batches(store: Store, setting: Setting, count: int) -> list[Batch]:
    """Batches of the training part, drawn at random, documents packed; rows come again if there are few.

    Args:
        store: the corpus.
        setting: its view, length and rows.
        count: batches.
    """
    special = store.tokenizer.special
    view = build_view(setting.rules.view, store.parts["train"], special, setting.seq_len, rng.key("gpu"))
    order = rng.permuted(rng.key("gpu", "order"), len(view), np.arange(len(view)))
    samples = np.arange(count * setting.batch_size)
    rows = order[samples % len(order)]
    return [
        view.batch(rows[chosen], np.zeros_like(chosen), chosen) for chosen in np.array_split(samples, count)
    ]


def as_one_document(batch: Batch) -> Batch:
    """The same tokens as rows of one document each, as where text is cut up without looking."""
    positions = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens).contiguous()
    return batch.replace(documents=torch.zeros_like(batch.documents), positions=positions)


def tokens_a_word(store: Store) -> float:
    """By what the tokenizer makes of the training part's first 100,000 tokens."""
    tokens = store.parts["train"].tokens[:100_000]
    return len(tokens) / max(len(store.tokenizer.decode(tokens.tolist()).split()), 1)
