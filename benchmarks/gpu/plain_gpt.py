"""A GPT as one writes it today in plain PyTorch: nanoGPT's way, against which ours is held on a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.config import TransformerConfig


class PlainLayer(nn.Module):
    """Pre-norm attention and feed-forward; one product for query, key and value."""

    def __init__(self, model: TransformerConfig) -> None:
        super().__init__()
        assert model.hidden_size
        assert model.ffn_size
        assert model.num_heads
        width = model.hidden_size
        self.heads = model.num_heads
        self.attention_norm = nn.LayerNorm(width, eps=model.norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=model.norm_eps)
        self.up = nn.Linear(width, model.ffn_size)
        self.down = nn.Linear(model.ffn_size, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x)), approximate="tanh"))


class PlainGpt(nn.Module):
    """The same mathematics as our ``gpt2`` on rows of one document each, without dropout.

    The logits of all positions are held at once.
    """

    def __init__(self, model: TransformerConfig, vocab_size: int) -> None:
        super().__init__()
        assert model.hidden_size
        assert model.max_positions
        assert not model.dropout
        self.tokens = nn.Embedding(vocab_size, model.hidden_size)
        self.positions = nn.Embedding(model.max_positions, model.hidden_size)
        self.layers = nn.ModuleList(PlainLayer(model) for _ in range(model.num_layers or 0))
        self.final_norm = nn.LayerNorm(model.hidden_size, eps=model.norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean nats of each next token of (B, T) ids."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.final_norm(x[:, :-1]), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def plain_gpt(model: TransformerConfig, vocab_size: int, ours: Mapping[str, Tensor]) -> PlainGpt:
    """The plain GPT with the weights of a module of ours.

    Args:
        model: its config, complete.
        vocab_size: V.
        ours: its ``state_dict``.
    """
    made = PlainGpt(model, vocab_size)
    weights = {}
    for name, weight in ours.items():
        room, _, rest = name.removeprefix("backbone.").partition(".")
        if room in ("embedding", "encoder"):
            rest = rest.replace("learned_positions", "positions")
            weights[rest.replace(".attention.", ".").replace(".ffn.", ".")] = weight
    made.load_state_dict(weights)
    return made
