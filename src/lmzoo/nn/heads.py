"""From hidden states to predictions: the vocabulary head, and BERT's head for sentence pairs."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.config import ModelConfig
from lmzoo.nn.embedding import Embedding, norm_has_bias
from lmzoo.nn.initial import draw_matrix
from lmzoo.nn.losses import linear_cross_entropy, sampled_tokens, scored_cross_entropy


class VocabularyHead(nn.Module):
    """States to tokens, for any objective; computed at predicted positions only.

    ``dense`` is the head of ModernBERT and BERT (dense, GELU, norm, decoder), ``plain`` the decoder
    alone; the decoder adds a bias where the config has ``decoder_bias``. ``streams=2`` predicts from
    two streams at once, laid side by side (a masked LM on a biLSTM), which takes a dense layer in
    either form, and so do states of another width than the table's (``states_size``).
    """

    def __init__(
        self, config: ModelConfig, embedding: Embedding, *, streams: int = 1, states_size: int | None = None
    ) -> None:
        super().__init__()
        assert config.hidden_size
        width = config.hidden_size
        read = streams * (states_size or width)
        dense = config.head == "dense"
        self.dense = nn.Linear(read, width, bias=norm_has_bias(config)) if dense or read != width else None
        self.norm = nn.LayerNorm(width, eps=config.norm_eps, bias=norm_has_bias(config)) if dense else None
        self.make_decoder(config, embedding)
        if self.dense is not None:
            draw_matrix(
                self.dense.weight, config, replace(config, hidden_size=states_size or width).matrix_std
            )
            if self.dense.bias is not None:
                nn.init.zeros_(self.dense.bias)

    def make_decoder(self, config: ModelConfig, embedding: Embedding) -> None:
        """Build what follows ``transform``; called once."""
        vocab_size = embedding.vocab_size
        if config.tied:
            assert isinstance(embedding.tokens, nn.Embedding)
            self.decoder = embedding.tokens.weight
        else:
            self.decoder = nn.Parameter(torch.empty(vocab_size, config.hidden_size or 0))
            draw_matrix(self.decoder, config, config.table_std)
        self.decoder_bias = nn.Parameter(torch.zeros(vocab_size)) if config.decoder_bias else None

    def transform(self, states: Tensor) -> Tensor:
        """(N, streams·D) to (N, D): everything before the decoder."""
        if self.dense is not None:
            states = self.dense(states)
        if self.norm is not None:
            states = self.norm(F.gelu(states))
        return states

    def logits(self, states: Tensor) -> Tensor:
        """(N, streams·D) to (N, V)."""
        return F.linear(self.transform(states), self.decoder, self.decoder_bias)

    def loss(self, states: Tensor, targets: Tensor) -> Tensor:
        """Summed nats of (N,) targets predicted from (N, streams·D), with gradients."""
        return self.decoded_loss(self.transform(states), targets)

    def decoded_loss(self, transformed: Tensor, targets: Tensor) -> Tensor:
        """The same from what ``transform`` gives, or what stands in its stead."""
        return linear_cross_entropy(transformed, self.decoder, self.decoder_bias, targets)

    def decoded_scores(
        self, transformed: Tensor, targets: Tensor, *, guesses: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """(N,) nats and (N,) hits from there, for measuring; without ``guesses`` no hits."""
        return scored_cross_entropy(transformed, self.decoder, self.decoder_bias, targets, guesses=guesses)

    def scores(
        self, states: Tensor, targets: Tensor, *, guesses: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """The same from states."""
        return self.decoded_scores(self.transform(states), targets, guesses=guesses)

    @torch.no_grad()
    def sample(self, states: Tensor, draws: Tensor) -> Tensor:
        """(N,) int64 tokens drawn as likely as the head holds them; see ``sampled_tokens``."""
        return sampled_tokens(self.transform(states), self.decoder, self.decoder_bias, draws)

    def logits_of(self, states: Tensor, tokens: Tensor) -> Tensor:
        """(N, streams·D) states and (N, C) ids to the (N, C) float32 logits of these ids alone."""
        rows = F.embedding(tokens, self.decoder)  # (N, C, D)
        logits = torch.bmm(rows, self.transform(states)[:, :, None].to(rows.dtype)).squeeze(-1).float()
        return logits if self.decoder_bias is None else logits + self.decoder_bias[tokens]

    def flops_of(self, count: int) -> int:
        """Floating-point operations of ``logits_of`` a state, for ``count`` ids."""
        dense = 0 if self.dense is None else self.dense.weight.numel()
        return 2 * (dense + count * self.decoder.shape[1])

    def flops_per_prediction(self) -> int:
        """Floating-point operations of one forward pass a predicted token."""
        dense = 0 if self.dense is None else self.dense.weight.numel()
        return 2 * (dense + self.decoder.numel())


class PairHead(nn.Module):
    """Does B follow A? BERT's tanh pooler and a two-way classifier (Devlin et al. 2019, figure 1)."""

    def __init__(self, config: ModelConfig, *, streams: int = 1) -> None:
        super().__init__()
        assert config.hidden_size
        self.pooler = nn.Linear(streams * config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 2)
        draw_matrix(self.pooler.weight, config, config.matrix_std)
        draw_matrix(self.classifier.weight, config, 0.02)  # the first answers are undecided
        for layer in (self.pooler, self.classifier):
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, streams·D) states of whole rows to (B, 2) logits: follows, drawn at random."""
        return self.classifier(torch.tanh(self.pooler(pooled)))

    def flops_per_row(self) -> int:
        return 2 * (self.pooler.weight.numel() + self.classifier.weight.numel())
