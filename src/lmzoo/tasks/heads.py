"""What stands over a model's states for a task: pooling, biLSTM, and the heads of BERT, GPT and ULMFiT."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.dropout import Dropout

ULMFIT_HIDDEN = 50
"""Of the hidden layer of ULMFiT's classifier (Howard and Ruder 2018, section 4.1)."""


def pooled(states: Tensor, is_text: Tensor, how: str, *, apart: bool) -> Tensor:
    """One vector a row.

    Args:
        states: (B, T, D), or (B, L, T, D) for several layers.
        is_text: (B, T) bool, True at least once a row; text stands before padding.
        how: ``cls`` (the first position), ``last`` (the last that is text), ``mean`` or ``max`` (of all that
            is text, special tokens too) or ``concat`` (last, max and mean: Howard and Ruder 2018, 3.3).
        apart: whether D is two streams, past before future; ``last`` is then of each where it has read the
            whole row, which for the future is its beginning.

    Returns:
        (B, D) or (B, L, D); three times as wide for ``concat``.
    """
    if how == "concat":
        return torch.cat([pooled(states, is_text, part, apart=apart) for part in ("last", "max", "mean")], -1)
    if how == "cls":
        return states[..., 0, :]
    if how == "last":
        rows = torch.arange(len(is_text), device=states.device)
        last = states.movedim(-2, 1)[rows, is_text.sum(1) - 1]
        if not apart:
            return last
        width = states.shape[-1] // 2
        return torch.cat([last[..., :width], states[..., 0, width:]], dim=-1)
    shape = [len(is_text), *[1] * (states.dim() - 3), is_text.shape[1], 1]
    inside = is_text.view(shape)
    if how == "max":
        return states.masked_fill(~inside, float("-inf")).amax(-2)
    share = inside.to(states.dtype)
    return (states * share).sum(-2) / share.sum(-2)


class RowLstm(nn.Module):
    """One bidirectional LSTM over rows; its states are two streams, so ``pooled`` takes them as ``apart``.

    The second direction reads each row turned round within its length: packed sequences, which PyTorch has
    for that, took twice as long on a CPU (32 rows of up to 60 steps, 128 wide, 101 ms for 50).
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.past = nn.LSTM(width, hidden, batch_first=True)
        self.future = nn.LSTM(width, hidden, batch_first=True)
        self.width = 2 * hidden

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) with (B,) lengths to (B, T, 2H); of padding, finite and without a meaning."""
        places = torch.arange(x.shape[1], device=x.device)
        ends = lengths[:, None]
        turned = torch.where(places < ends, ends - 1 - places, places)[..., None]
        with torch.autocast(x.device.type, enabled=False):  # no half-precision kernel on every device
            x = x.float()
            future, _ = self.future(_along(x, turned))
            return torch.cat([self.past(x)[0], _along(future, turned)], dim=-1)


def _along(x: Tensor, places: Tensor) -> Tensor:
    """(B, T, D) at (B, T, 1) places of each row."""
    return x.gather(1, places.expand(-1, -1, x.shape[-1]))


def padded(flat: Tensor, lengths: Tensor) -> Tensor:
    """(N, D) vectors of sequences one after another to (S, T, D); sequences of no length are rows of 0."""
    longest = int(lengths.max()) if len(lengths) else 0
    inside = text_mask(lengths, max(longest, 1))
    out = flat.new_zeros(*inside.shape, flat.shape[-1])
    out[inside] = flat
    return out


def text_mask(lengths: Tensor, longest: int) -> Tensor:
    """(S, longest) bool: True where a sequence of that length has a position."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def paired(first: Tensor, second: Tensor) -> Tensor:
    """(B, D) and (B, D) to (B, 4·D): u, v, |u - v| and u ⊙ v (Conneau et al. 2017, section 3.1)."""
    return torch.cat([first, second, (first - second).abs(), first * second], dim=-1)


def small_linear(width: int, outputs: int) -> nn.Linear:
    """A classifier that starts undecided: BERT's 0.02, no bias."""
    layer = nn.Linear(width, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


class TextHead(nn.Module):
    """Of one vector a row.

    ``cls`` goes through BERT's pooler (a dense layer and tanh), ``concat`` through ULMFiT's block (batch
    norm, a hidden layer of 50 with ReLU, batch norm), anything else goes to the classifier as it is.
    """

    def __init__(
        self, width: int, outputs: int, how: str, dropout: float, pooler: nn.Linear | None = None
    ) -> None:
        """
        Args:
            width: of the pooled vector.
            outputs: labels, or 1 for a number.
            how: see ``pooled``.
            dropout: before each linear layer.
            pooler: ``cls``: the one that the model was trained with, where it was; taken over, and trained
                on.
        """
        super().__init__()
        self.how = how
        self.dropout = Dropout(dropout)
        if how == "cls":
            self.pooler = pooler or nn.Linear(width, width)
            if pooler is None:
                nn.init.normal_(self.pooler.weight, std=width**-0.5)
                nn.init.zeros_(self.pooler.bias)
            width = self.pooler.out_features
        elif how == "concat":
            self.norm, self.hidden = nn.BatchNorm1d(width), nn.Linear(width, ULMFIT_HIDDEN)
            self.last_norm = nn.BatchNorm1d(ULMFIT_HIDDEN)
            width = ULMFIT_HIDDEN
        self.classifier = small_linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, C)."""
        if self.how == "cls":
            x = torch.tanh(self.pooler(x))
        elif self.how == "concat":
            x = F.relu(self.hidden(self.dropout(_normed(x, self.norm))))
            x = _normed(x, self.last_norm)
        return self.classifier(self.dropout(x))


def _normed(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Batch norm; a batch of one, of which nothing can be learned, has the running figures."""
    if norm.training and len(x) > 1:
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
