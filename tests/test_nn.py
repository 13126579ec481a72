"""The network's parts against PyTorch's own, and against cells written out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from builders import SMALL, VOCAB_SIZE
from lmzoo.backbone import build_backbone
from lmzoo.nn import losses
from lmzoo.nn.attention import rotary_tables, rotate, see
from lmzoo.nn.config import LstmConfig, PastLstmConfig, TransformerConfig
from lmzoo.nn.embedding import Embedding, sinusoids
from lmzoo.nn.losses import linear_cross_entropy, scored_cross_entropy
from lmzoo.nn.lstm import BiLstm
from lmzoo.nn.sizes import SIZES, complete
from lmzoo.nn.transformer import Transformer
from lmzoo.types import Context


def test_one_layer_without_clipping_is_pytorchs_projected_lstm():
    torch.manual_seed(0)
    config = LstmConfig(num_layers=1, hidden_size=6, cell_size=9, cell_clip=1e9, projection_clip=1e9)
    ours = BiLstm(config, Context.PAST)
    theirs = torch.nn.LSTM(6, 9, proj_size=6, batch_first=True)
    layer = ours.past[0]

    def reorder(weight):  # ours: input, forget, output, candidate; PyTorch: input, forget, candidate, output
        into, forget, out, candidate = weight.chunk(4)
        return torch.cat([into, forget, candidate, out])

    with torch.no_grad():
        theirs.weight_ih_l0.copy_(reorder(layer.input_weight))
        theirs.weight_hh_l0.copy_(reorder(layer.hidden_weight))
        theirs.bias_ih_l0.copy_(reorder(layer.bias))
        theirs.bias_hh_l0.zero_()
        theirs.weight_hr_l0.copy_(layer.projection)
    x, documents = torch.randn(2, 11, 6), torch.zeros(2, 11, dtype=torch.long)
    torch.testing.assert_close(ours(x, documents, documents).states, theirs(x)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 5, 700], ids=lambda n: f"{n} rows")
def test_linear_cross_entropy_equals_pytorchs(with_bias, rows):
    torch.manual_seed(0)
    assert rows == 0 or rows <= 5 or rows > losses.CHUNK
    x, weight = torch.randn(rows, 8), torch.randn(VOCAB_SIZE, 8)
    bias = torch.randn(VOCAB_SIZE) if with_bias else None
    targets = torch.randint(0, VOCAB_SIZE, (rows,))
    results = []
    for chunked in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, weight) + ((bias,) if with_bias else ())]
        own_bias = leaves[2] if with_bias else None
        if chunked:
            total = linear_cross_entropy(leaves[0], leaves[1], own_bias, targets)
        else:
            total = F.cross_entropy(F.linear(leaves[0], leaves[1], own_bias), targets, reduction="sum")
        (total * 0.5).backward()
        results.append([total, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    nats, hits = scored_cross_entropy(x, weight, bias, targets)
    torch.testing.assert_close(nats.sum(), results[1][0].detach(), atol=1e-4, rtol=1e-4)
    assert hits.tolist() == (F.linear(x, weight, bias).argmax(-1) == targets).tolist()
    alone, none = scored_cross_entropy(x, weight, bias, targets, guesses=False)
    assert none is None
    assert torch.equal(alone, nats)


def test_linear_cross_entropy_in_bf16_is_close():
    torch.manual_seed(0)
    x, weight = torch.randn(600, 32, requires_grad=True), torch.randn(200, 32, requires_grad=True)
    targets = torch.randint(0, 200, (600,))
    with torch.autocast("cpu", torch.bfloat16):
        total = linear_cross_entropy(x, weight, None, targets)
    assert total.dtype == torch.float32
    exact = F.cross_entropy(x @ weight.t(), targets, reduction="sum")
    assert abs(float(total.detach()) / float(exact.detach()) - 1) < 5e-3


def test_rotary_positions_depend_on_differences_alone():
    query, key = torch.randn(2, 1, 1, 1, 8).unbind(0)

    def product(i: int, j: int) -> float:
        at = [rotary_tables(torch.tensor([[p]]), 8, 10000.0) for p in (i, j)]
        return float((rotate(query, *at[0]) * rotate(key, *at[1])).sum())

    assert product(3, 1) == pytest.approx(product(9, 7), abs=1e-5)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-3)


def test_attention_equals_the_formula():
    """One head, one layer: softmax(q kᵀ / √d) v, with the rotary embedding as complex numbers."""
    torch.manual_seed(0)
    config = TransformerConfig(num_layers=1, hidden_size=8, num_heads=1, ffn_size=8)
    attention = Transformer(config, Context.FULL).layers[0].attention
    x, positions = torch.randn(1, 5, 8), torch.arange(5)[None]
    query, key, value = attention.qkv(x)[0].split(8, dim=-1)

    def turned(vectors):
        pairs = torch.complex(vectors[:, :4], vectors[:, 4:])
        angles = torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(4) / 4)
        pairs = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    weights = (turned(query) @ turned(key).t() / 8**0.5).softmax(-1)
    expected = (weights @ value) @ attention.out.weight.t()
    seen = see(torch.ones(1, 1, 5, 5, dtype=torch.bool), torch.float32)
    ours = attention(x, seen, rotary_tables(positions, 8, 10000.0))[0]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "choices",
    [
        {"norm_placement": "post", "activation": "gelu", "bias": True, "positions": "learned"},
        {"norm_placement": "pre", "activation": "relu", "bias": True, "positions": "sinusoidal"},
        {"embedding_norm": False, "activation": "gelu", "positions": "none"},
        {"norm": "rms", "activation": "swiglu", "positions": "alibi", "query_key_norm": True},
    ],
    ids=["bert_2018", "relu", "bare", "llama_like"],
)
def test_the_published_choices_are_config_of_the_same_class(choices):
    config = replace(SMALL["bert"], num_segments=0, max_positions=9, **choices)
    backbone = build_backbone(config, Context.FULL, VOCAB_SIZE)
    tokens = torch.randint(5, VOCAB_SIZE, (2, 9))
    from lmzoo.types import Batch

    zeros = torch.zeros_like(tokens)
    states = backbone(Batch(tokens, zeros, torch.arange(9).expand(2, 9), torch.arange(2))).states
    states.square().sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("width", [16, 768])
def test_sinusoidal_positions_do_not_drown_the_tokens(width):
    config = replace(
        SMALL["gpt"], hidden_size=width, positions="sinusoidal", embedding_norm=False, dropout=0.0
    )
    embedding = Embedding(config, VOCAB_SIZE)
    positions = torch.arange(64)[None]
    waves = sinusoids(positions, width)
    torch.testing.assert_close(waves.square().mean().sqrt(), torch.tensor(0.5**0.5), atol=0.05, rtol=0)
    token = embedding(torch.full_like(positions, 7), positions) - waves
    torch.testing.assert_close(token, (embedding.tokens.weight[7] * width**0.5).expand_as(token))
    assert 0.3 < token.square().mean().sqrt() < 1


@pytest.mark.parametrize("size", SIZES)
def test_the_families_of_one_size_weigh_the_same_to_5_percent(size):
    counts = {}
    for name, model, context in [
        ("elmo", LstmConfig(name="elmo"), Context.APART),
        ("lstm", PastLstmConfig(name="lstm"), Context.PAST),
        ("gpt", TransformerConfig(name="gpt"), Context.PAST),
        ("bert", TransformerConfig(name="bert"), Context.FULL),
    ]:
        with torch.device("meta"):
            config = complete(model, size=size, pairs=False, seq_len=128)
            counts[name] = build_backbone(config, context, 100).num_parameters()
    assert counts["gpt"] == counts["bert"]
    assert counts["elmo"] == pytest.approx(counts["bert"], rel=0.05)
    assert counts["lstm"] == pytest.approx(counts["elmo"], rel=0.01)


def test_base_and_large_have_berts_published_widths_and_depths():
    shapes = {name: (s.num_layers, s.hidden_size, s.num_heads) for name, s in SIZES.items()}
    assert shapes["base"] == (12, 768, 12)
    assert shapes["large"] == (24, 1024, 16)
