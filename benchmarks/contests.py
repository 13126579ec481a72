"""Which models are held against each other, at which sizes, and on which batches of real text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.measure import BOOKS
from lmzoo import rng
from lmzoo.config import compose
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.data.views import build_view
from lmzoo.nn.sizes import PUBLISHED_SIZES
from lmzoo.settings import TrainConfig
from lmzoo.text.config import TokenizerConfig
from lmzoo.types import Batch, SpecialTokens

LARGEST_TOKENIZER = 8192
"""Pieces that books.valid is cut into where the vocabulary is larger, which so small a text cannot fill."""


@dataclass(frozen=True)
class Contest:
    """A model of ours with its objective, and what it is held against."""

    model: str
    objective: str
    view: str
    other: str


CONTESTS = {
    "bert_2018": Contest("bert_2018", "mlm_nsp", "pairs", "transformers' BertForPreTraining"),
    "gpt2": Contest("gpt2", "clm", "stream", "transformers' GPT2LMHeadModel"),
    "bert": Contest("bert", "mlm", "stream", "transformers' ModernBertForMaskedLM"),
    "gpt": Contest("gpt", "clm", "stream", "transformers' ModernBertDecoderForCausalLM"),
    "elmo": Contest("elmo", "bilm", "stream", "nn.LSTM(proj_size), full softmax"),
}
SHAPES = ("target", "tiny", "mini", "small", "base")
"""`target` is what the project's aims are stated for: L4 d256 h4 ffn1024 (or `mini` of the controlled line),
8,192 pieces, 32 rows of 128, dropout 0.1. ELMo's `tiny` has twice the cells that it has elsewhere."""


@dataclass(frozen=True)
class Setting:
    """A contest at one size."""

    contest: str
    shape: str = "target"
    vocab_size: int = 8192
    seq_len: int = 128
    batch_size: int = 32
    dropout: float = 0.1

    @property
    def rules(self) -> Contest:
        return CONTESTS[self.contest]

    @cached_property
    def config(self) -> TrainConfig:
        """The config of the command that would train ours."""
        size = "mini" if self.shape == "target" else self.shape
        shape = [f"size={size}"]
        if self.rules.model == "gpt2":  # published at `base` and above
            found = PUBLISHED_SIZES["bert_2018"][size]
            fields = ("num_layers", "hidden_size", "num_heads", "ffn_size")
            shape = [f"model.{name}={getattr(found, name)}" for name in fields]
        elif self.rules.model == "elmo" and size == "tiny":  # nn.LSTM cannot project to more than its cells
            shape = [*shape, "model.cell_size=172"]
        made = compose(
            [f"model={self.rules.model}", f"objective={self.rules.objective}", f"seq_len={self.seq_len}",
             f"batch_size={self.batch_size}", f"model.dropout={self.dropout}", *shape]
        )  # fmt: skip
        # weights of the published 0.02 are so small that the first loss hardly tells a wrong one
        made.model.initializer_range = made.model.initializer_range and (made.model.hidden_size or 1) ** -0.5
        return made

    @property
    def special(self) -> SpecialTokens:
        return SpecialTokens(self.vocab_size)


def text_batches(setting: Setting, cache: Path, count: int = 4) -> list[Batch]:
    """Batches of books.valid through our tokenizer and view, rows in one document each, drawn at random.

    Args:
        setting: its view, vocabulary, length and rows.
        cache: folder for the prepared corpus.
        count: batches, all different where the text has rows enough.
    """
    pieces = min(setting.vocab_size, LARGEST_TOKENIZER)
    text = DataConfig(source="text", train=str(BOOKS["valid"]))
    store = prepare(text, TokenizerConfig(vocab_size=pieces), cache)
    part, special = store.parts["train"], store.tokenizer.special
    view = build_view(setting.rules.view, part, special, setting.seq_len, rng.key("contest"))
    order = rng.permuted(rng.key("contest", "order"), len(view), np.arange(len(view)))
    if setting.rules.view == "stream":
        documents = view.batch(order, np.zeros_like(order), order).documents
        order = order[(documents == 0).all(1).numpy()]
    samples = np.arange(count * setting.batch_size)
    rows = order[samples % len(order)]
    return [
        view.batch(rows[chosen], np.zeros_like(chosen), chosen) for chosen in np.array_split(samples, count)
    ]
