"""The Transformer encoder: one class for causal and full attention.

The defaults are those of ModernBERT (Warner et al. 2024, section 2.1) with full attention in every
layer, which its decoder twin in Ettin (Weller et al. 2025) shares weight for weight: pre-norm, rotary
positions, GeGLU, no biases. The published models' choices are config of the same class.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmzoo.nn.config import TransformerConfig
from lmzoo.types import Context, Hidden


def rotary_tables(positions: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (Su et al. 2021, equation 34).

    Args:
        positions: (B, T) int64.
        head_size: width of a head, even.
        base: θ; the slowest pair turns once in about 2π·base positions.

    Returns:
        two tensors (B, 1, T, head_size), the second half a copy of the first.
    """
    exponents = torch.arange(0, head_size, 2, device=positions.device) / head_size
    angles = positions[:, None, :, None] * base**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_size/2) of (B, H, T, head_size) by their position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Multi-head self-attention through PyTorch's scaled-dot-product attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.hidden_size and config.num_heads
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor, allowed: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """(B, T, D) to (B, T, D); ``allowed`` (B, 1, T, T) is True where a query may see a key."""
        rows, length, width = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D/H)
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        query, key, value = query.to(value.dtype), key.to(value.dtype), value
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))


class FeedForward(nn.Module):
    """Two linear layers; with GeGLU (Shazeer 2020, equation 6) the first one also makes the gate."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.hidden_size and config.ffn_size
        self.gated = config.activation == "geglu"
        self.activation = F.relu if config.activation == "relu" else F.gelu
        self.up = nn.Linear(config.hidden_size, config.ffn_size * (2 if self.gated else 1), bias=config.bias)
        self.down = nn.Linear(config.ffn_size, config.hidden_size, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.down(self.activation(self.up(x)))
        raised, gate = self.up(x).chunk(2, dim=-1)
        return self.down(self.activation(raised) * gate)


class Layer(nn.Module):
    """Attention and feed-forward, each with a residual path and a norm before or after it."""

    def __init__(self, config: TransformerConfig, *, first: bool) -> None:
        super().__init__()
        assert config.hidden_size
        self.pre = config.norm_placement == "pre"
        # the embedding's norm has just been applied: ModernBERT leaves the first one out
        bare = first and self.pre and config.embedding_norm
        self.attention_norm = nn.Identity() if bare else make_norm(config)
        self.attention = Attention(config)
        self.ffn_norm = make_norm(config)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, allowed: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.pre:
            x = x + self.dropout(self.attention(self.attention_norm(x), allowed, rotary))
            return x + self.dropout(self.ffn(self.ffn_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, allowed, rotary)))
        return self.ffn_norm(x + self.dropout(self.ffn(x)))


def make_norm(config: TransformerConfig) -> nn.LayerNorm:
    assert config.hidden_size
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.bias)


class Transformer(nn.Module):
    """A stack of layers that sees the past (``PAST``) or everything (``FULL``)."""

    def __init__(self, config: TransformerConfig, context: Context) -> None:
        super().__init__()
        assert config.num_layers and config.hidden_size and config.num_heads
        assert context in (Context.PAST, Context.FULL)
        self.context = context
        self.config = config
        self.layers = nn.ModuleList(Layer(config, first=i == 0) for i in range(config.num_layers))
        self.final_norm = make_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights, those that write to the residual path scaled down (GPT-2, section 2.3)."""
        std = self.config.matrix_std
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes = name.endswith(("attention.out.weight", "ffn.down.weight"))
                nn.init.normal_(parameter, std=std / math.sqrt(2 * len(self.layers)) if writes else std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, documents: Tensor, positions: Tensor) -> Hidden:
        """Encode (B, T, D) with (B, T) document numbers and (B, T) positions within them."""
        allowed = visible(documents, causal=self.context is Context.PAST)
        rotary = None
        if self.config.positions == "rotary":
            head_size = x.shape[-1] // self.layers[0].attention.num_heads  # type: ignore[union-attr]
            rotary = rotary_tables(positions, int(head_size), self.config.rotary_base)
            if torch.is_autocast_enabled(x.device.type):
                dtype = torch.get_autocast_dtype(x.device.type)
                rotary = (rotary[0].to(dtype), rotary[1].to(dtype))
        for layer in self.layers:
            x = layer(x, allowed, rotary)
        return Hidden(self.context, states=self.final_norm(x))

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward pass a token, in rows of ``length`` tokens.

        Two a weight of every matrix, and the two products of attention over the whole row (a causal
        mask does not make them fewer).
        """
        matrices = sum(p.numel() for p in self.parameters() if p.dim() == 2)
        width = self.config.hidden_size or 0
        return 2 * matrices + len(self.layers) * 4 * length * width


def visible(documents: Tensor, *, causal: bool) -> Tensor:
    """Which keys a query may see: those of its own document, and if causal not the later ones.

    Padding is a document of its own, so that no query is left without any key.

    Args:
        documents: (B, T) int64.

    Returns:
        (B, 1, T, T) bool, queries by keys.
    """
    same = documents[:, None, :, None] == documents[:, None, None, :]
    if not causal:
        return same
    length = documents.shape[1]
    return same & torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()


class ApartTransformers(nn.Module):
    """Two causal stacks, one of which reads each row from its end: ``APART`` by two instances."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.context = Context.APART
        self.past = Transformer(config, Context.PAST)
        self.future = Transformer(config, Context.PAST)

    def forward(self, x: Tensor, documents: Tensor, positions: Tensor) -> Hidden:
        past = self.past(x, documents, positions).states
        # counted from the row's end: only differences count for rotary positions
        mirrored = (positions.shape[1] - 1 - positions).flip(1)
        future = self.future(x.flip(1), documents.flip(1), mirrored).states
        assert future is not None
        return Hidden(Context.APART, past=past, future=future.flip(1))

    def flops_per_token(self, length: int) -> int:
        return self.past.flops_per_token(length) + self.future.flops_per_token(length)
