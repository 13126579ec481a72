"""A biLM in plain PyTorch, against which our ELMo is held: ``nn.LSTM(proj_size=…)`` and a full softmax."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.config import LstmConfig, ModelConfig


class PlainBiLm(nn.Module):
    """The same mathematics as our ``elmo`` with ``bilm``, on rows of one document each.

    But for the clipping of cells and states at 3, which ``nn.LSTM`` does not have and drawn weights do not
    reach. The logits of all positions of a direction are held at once.
    """

    def __init__(self, model: LstmConfig, vocab_size: int) -> None:
        super().__init__()
        assert model.hidden_size
        assert model.cell_size
        width, cells, depth = model.hidden_size, model.cell_size, range(model.num_layers or 0)
        self.tokens = nn.Embedding(vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=model.norm_eps, bias=False)
        self.dropout = nn.Dropout(model.dropout)
        self.past = nn.ModuleList(nn.LSTM(width, cells, proj_size=width) for _ in depth)
        self.future = nn.ModuleList(nn.LSTM(width, cells, proj_size=width) for _ in depth)
        self.dense = nn.Linear(width, width, bias=False)
        self.head_norm = nn.LayerNorm(width, eps=model.norm_eps, bias=False)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """The mean of both directions' losses on (B, T) ids."""
        order = tokens.t()  # time first, as nn.LSTM is quickest
        x = self.dropout(self.norm(self.tokens(order)))
        ahead = self._loss(self._encode(x, self.past), order)
        back = self._loss(self._encode(x.flip(0), self.future), order.flip(0))
        return {"loss": (ahead + back) / 2}

    def _encode(self, x: Tensor, layers: nn.ModuleList) -> Tensor:
        for depth, layer in enumerate(layers):
            out = self.dropout(layer(x)[0])
            x = out + x if depth else out
        return x

    def _loss(self, states: Tensor, order: Tensor) -> Tensor:
        """Mean nats of each next token of (T, B) ids from (T, B, D) states."""
        logits = F.linear(self.head_norm(F.gelu(self.dense(states[:-1]))), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), order[1:].flatten())


def plain_bilm(model: ModelConfig, vocab_size: int, ours: Mapping[str, Tensor]) -> PlainBiLm:
    """The plain biLM with the weights of a module of ours.

    Args:
        model: its config, complete.
        vocab_size: V.
        ours: its ``state_dict``.
    """
    assert isinstance(model, LstmConfig)
    made = PlainBiLm(model, vocab_size)
    weights = {
        "tokens.weight": ours["backbone.embedding.tokens.weight"],
        "norm.weight": ours["backbone.embedding.norm.weight"],
        "dense.weight": ours["objective.head.dense.weight"],
        "head_norm.weight": ours["objective.head.norm.weight"],
    }
    for name in (f"{stream}.{layer}" for stream in ("past", "future") for layer in range(len(made.past))):
        here = f"backbone.encoder.{name}"
        weights[f"{name}.weight_ih_l0"] = _their_gates(ours[f"{here}.input_weight"])
        weights[f"{name}.weight_hh_l0"] = _their_gates(ours[f"{here}.hidden_weight"])
        weights[f"{name}.bias_ih_l0"] = _their_gates(ours[f"{here}.bias"])
        # nn.LSTM adds a second bias, which ours does not have
        weights[f"{name}.bias_hh_l0"] = torch.zeros_like(ours[f"{here}.bias"])
        weights[f"{name}.weight_hr_l0"] = ours[f"{here}.projection"]
    made.load_state_dict(weights)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_("bias_hh" not in name)
    return made


def _their_gates(ours: Tensor) -> Tensor:
    """From input, forget, output, candidate to PyTorch's input, forget, candidate, output."""
    into, forget, out, candidate = ours.chunk(4)
    return torch.cat([into, forget, candidate, out])
