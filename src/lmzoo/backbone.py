"""The backbone: embedding + encoder. Tokens in, hidden states out; no vocabulary projection."""

from __future__ import annotations

from torch import nn

from lmzoo.nn.config import LstmConfig, ModelConfig, TransformerConfig
from lmzoo.nn.embedding import Embedding
from lmzoo.nn.lstm import BiLstm
from lmzoo.nn.transformer import ApartTransformers, Transformer
from lmzoo.types import Batch, Context, Hidden


def build_encoder(config: ModelConfig, context: Context) -> nn.Module:
    """The encoder of a config, giving the context asked for."""
    match config, context:
        case TransformerConfig(), Context.APART:
            return ApartTransformers(config)
        case TransformerConfig(), _:
            return Transformer(config, context)
        case LstmConfig(), _:
            return BiLstm(config, context)
    raise TypeError(f"no encoder is built from {type(config).__name__}")


class Backbone(nn.Module):
    """One embedding and one encoder; either can be swapped for another of the same width."""

    def __init__(self, embedding: Embedding, encoder: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.encoder = encoder

    @property
    def context(self) -> Context:
        """What each position of its states has seen."""
        return self.encoder.context  # type: ignore[return-value]

    def forward(self, batch: Batch) -> Hidden:
        """Encode a batch's (B, T) tokens as (B, T, D) states, documents kept apart."""
        x = self.embedding(batch.tokens, batch.positions, batch.segments)
        return self.encoder(x, batch.documents, batch.positions)

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward pass a token, in rows of ``length`` tokens."""
        return self.encoder.flops_per_token(length)  # type: ignore[operator]

    def num_parameters(self) -> int:
        """Parameters of the encoder: no tables, no heads."""
        return sum(p.numel() for p in self.encoder.parameters())


def build_backbone(config: ModelConfig, context: Context, vocab_size: int) -> Backbone:
    """Embedding and encoder from one config."""
    return Backbone(Embedding(config, vocab_size), build_encoder(config, context))
