"""The loss of predicted tokens in training: the cross-entropy, smoothed, over a sample, or of an adaptive softmax."""

from __future__ import annotations

from torch import Tensor, nn

from lmzoo import rng
from lmzoo.errors import LmzooError
from lmzoo.nn.heads import VocabularyHead
from lmzoo.nn.losses import smoothing_term
from lmzoo.nn.sampled import inclusion_shares, sample_ids, sampled_cross_entropy
from lmzoo.objectives.config import ObjectiveConfig, TokenLossConfig


class TokenLoss(nn.Module):
    """What an objective differentiates. Validation knows the head's own cross-entropy alone."""

    def __init__(self, config: ObjectiveConfig, vocab_size: int) -> None:
        super().__init__()
        told = config if isinstance(config, TokenLossConfig) else TokenLossConfig()
        self.smoothing = told.label_smoothing
        self.adaptive = told.loss == "adaptive"
        self.num_samples = told.num_samples if told.loss == "sampled" else None
        if self.num_samples is not None and self.num_samples >= vocab_size:
            raise LmzooError(
                f"objective.num_samples={self.num_samples} is not fewer than the {vocab_size} ids of the "
                "vocabulary; give fewer, or objective.loss=full"
            )
        shares = None if self.num_samples is None else inclusion_shares(vocab_size, self.num_samples)
        self.shares: Tensor | None
        self.register_buffer("shares", shares, persistent=False)

    @property
    def name(self) -> str:
        """`smoothed`, `sampled` or `adaptive`, where it is not the cross-entropy of one softmax; else empty."""
        if self.adaptive:
            return "adaptive"
        return "sampled" if self.num_samples is not None else "smoothed" if self.smoothing else ""

    def sample(self, key: int, *, training: bool, spent: float) -> Tensor | None:
        """(S,) int64 the ids of a step's sampled softmax: see ``Task.sampled``.

        All rows, micro-batches and ranks of a step share one sample, which ``spent`` names: it is the same for all
        of them, and another in every step.
        """
        if self.shares is None or not training:
            return None
        return sample_ids(rng.key(key, "sampled", spent.hex()), self.shares)

    def forward(
        self, head: VocabularyHead, transformed: Tensor, targets: Tensor, sampled: Tensor | None
    ) -> Tensor:
        """() summed nats of (N,) targets from (N, D) what the decoder reads, with gradients."""
        if sampled is not None:
            assert self.shares is not None
            weight, bias = head.decoder, head.decoder_bias
            return sampled_cross_entropy(transformed, weight, bias, targets, sampled, self.shares)
        total = head.decoded_loss(transformed, targets)
        if not self.smoothing:
            return total
        added = smoothing_term(transformed, head.decoder, head.decoder_bias, targets, self.smoothing)
        return total + added

    def flops_spared(self, head: VocabularyHead) -> int:
        """Floating-point operations of the decoder that a prediction does not take, the ids being a sample."""
        if self.num_samples is None:
            return 0
        rows, width = head.decoder.shape
        return 2 * (rows - self.num_samples) * width
