"""What an encoder may be beside the defaults: ALiBi, RMSNorm, normed queries and keys, SwiGLU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from builders import PAIRS, SMALL, VOCAB_SIZE, batch_of, random_batch, small_module
from lmzoo.backbone import build_backbone
from lmzoo.nn.alibi import biased, slopes
from lmzoo.nn.attention import rotate
from lmzoo.nn.config import TransformerConfig
from lmzoo.nn.transformer import Attention, Transformer
from lmzoo.types import Context, Trace

CHOICES = {
    "alibi": {"positions": "alibi"},
    "rms": {"norm": "rms"},
    "rms_post": {"norm": "rms", "norm_placement": "post", "bias": True},
    "query_key_norm": {"query_key_norm": True},
    "query_key_norm_rms": {"query_key_norm": True, "norm": "rms", "positions": "learned"},
    "swiglu": {"activation": "swiglu"},
}
TRANSFORMERS = [pair for pair in PAIRS if pair[0] in ("gpt", "bert")]


def test_slopes_are_the_papers():
    assert slopes(8) == [2.0**-n for n in range(1, 9)]
    assert slopes(1) == [2.0**-8]
    # the paper's code: the 8 of eight heads, then every other one of sixteen
    assert slopes(12) == [2.0**-n for n in range(1, 9)] + [2.0 ** -(n + 0.5) for n in range(4)]


@pytest.mark.parametrize("causal", [True, False])
def test_alibi_is_its_formula_in_every_kernel(causal, monkeypatch):
    torch.manual_seed(0)
    config = replace(SMALL["gpt"], positions="alibi", dropout=0.0)
    assert isinstance(config, TransformerConfig)
    encoder = Transformer(config, Context.PAST if causal else Context.FULL)
    attention = encoder.layers[0].attention
    assert isinstance(attention, Attention)
    x = torch.randn(2, 6, 16)
    documents = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]])
    query, key, value = attention.qkv(x).view(2, 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
    expected = torch.zeros(2, 6, 16)
    for row in range(2):
        for head in range(2):
            for i in range(6):
                seen = [
                    j for j in range(6) if documents[row, i] == documents[row, j] and (j <= i or not causal)
                ]
                scores = torch.stack(
                    [
                        query[row, head, i] @ key[row, head, j] / 8**0.5 - slopes(2)[head] * abs(i - j)
                        for j in seen
                    ]
                )
                mixed = (scores.softmax(0)[:, None] * value[row, head, seen]).sum(0)
                expected[row, i, 8 * head : 8 * head + 8] = mixed
    expected = attention.out(expected)
    for ours in (True, False):
        if not ours:
            monkeypatch.setattr("lmzoo.nn.attention.draws_here", lambda x: False)
        found = attention(x, encoder._see(documents, torch.float32, False), None)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_heads_bias_of_a_cache_counts_from_the_last_key():
    whole = biased(torch.ones(1, 1, 5, 5, dtype=torch.bool).tril(), 2, torch.float32)
    last = biased(torch.ones(1, 1, 2, 5, dtype=torch.bool).tril(3), 2, torch.float32)
    assert torch.equal(last, whole[:, :, 3:])


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("family", "objective"), TRANSFORMERS)
def test_every_choice_learns_in_every_objective(family, objective, choice):
    module = small_module(family, objective, **CHOICES[choice]).eval()
    terms = module.terms(module.prepare(random_batch(objective)))
    torch.stack([term.total for term in terms.values()]).sum().backward()
    for name, parameter in module.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        if "tokens" not in name:
            assert bool(parameter.grad.abs().sum()), name


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("context", [Context.PAST, Context.FULL, Context.APART])
def test_documents_that_share_a_row_do_not_see_each_other(choice, context):
    torch.manual_seed(0)
    config = replace(SMALL["gpt"], num_segments=0, max_positions=8, **CHOICES[choice])
    backbone = build_backbone(config, context, VOCAB_SIZE).eval()
    one, other = [7, 8, 9, 10], [20, 21, 22, 23]
    with torch.no_grad():
        together = backbone(batch_of([[one, other]], 8))
        alone = backbone(batch_of([[other]], 4))
    for name in ("states", "past", "future"):
        if getattr(together, name) is not None:
            torch.testing.assert_close(getattr(together, name)[:, 4:], getattr(alone, name))


@pytest.mark.parametrize("choice", CHOICES)
def test_the_weights_that_are_shown_are_those_that_mix(choice):
    """Of the last token, whose state in one layer is what its weights make of the values."""
    torch.manual_seed(0)
    config = replace(SMALL["bert"], num_segments=0, max_positions=8, num_layers=1, **CHOICES[choice])
    assert isinstance(config, TransformerConfig)
    encoder = Transformer(config, Context.FULL).eval()
    x, documents, positions = (
        torch.randn(1, 6, 16),
        torch.zeros(1, 6, dtype=torch.long),
        torch.arange(6)[None],
    )
    trace = Trace(want_attention=True)
    with torch.no_grad():
        encoder(x, documents, positions, trace)
        layer = encoder.layers[0]
        normed = layer.attention_norm(x) if layer.pre else x
        value = layer.attention._heads(normed, encoder._rotary(x, positions))[2]
        mixed = layer.attention.out((trace.attentions[0][0] @ value).transpose(1, 2).reshape(x.shape))
        seen = encoder._see(documents, torch.float32, False)
        expected = layer.attention(normed, seen, encoder._rotary(x, positions))
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


def test_norms_and_gates_are_their_formulas():
    torch.manual_seed(0)
    config = replace(SMALL["bert"], norm="rms", activation="swiglu", query_key_norm=True)
    assert isinstance(config, TransformerConfig)
    layer = Transformer(config, Context.FULL).layers[0]
    x = torch.randn(3, 16)
    normed = x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * layer.ffn_norm.weight
    torch.testing.assert_close(layer.ffn_norm(x), normed)
    raised, gate = layer.ffn.up(x).chunk(2, -1)
    torch.testing.assert_close(layer.ffn(x), layer.ffn.down(F.silu(raised) * gate))
    query, key, _ = layer.attention._heads(x[None], None)
    for heads in (query, key):
        torch.testing.assert_close(heads.square().mean(-1), torch.ones(1, 2, 3), atol=1e-3, rtol=1e-3)


def test_normed_queries_and_keys_are_turned_by_their_positions():
    torch.manual_seed(0)
    config = replace(SMALL["bert"], query_key_norm=True)
    assert isinstance(config, TransformerConfig)
    encoder, x = Transformer(config, Context.FULL), torch.randn(1, 5, 16)
    attention = encoder.layers[0].attention
    raw = attention.qkv(x).view(1, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)[:2]
    rotary = encoder._rotary(x, torch.arange(5)[None])
    assert rotary is not None
    for found, plain in zip(attention._heads(x, rotary), raw, strict=False):
        normed = F.layer_norm(plain, (8,), eps=config.norm_eps)
        torch.testing.assert_close(found, rotate(normed, *rotary))
        assert float((found - normed).abs().max()) > 0.1


def test_alibi_takes_no_flex_attention():
    config = replace(SMALL["gpt"], positions="alibi")
    assert isinstance(config, TransformerConfig)
    reason = Transformer(config, Context.PAST).use_flex(torch.device("cpu"), torch.float32)
    assert reason is not None
    assert "alibi" in reason
