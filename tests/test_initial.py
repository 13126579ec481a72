"""Initial weights and activations of the Transformer, as its config says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lmzoo.nn.config import TransformerConfig
from lmzoo.nn.transformer import FeedForward, Transformer
from lmzoo.types import Context

CONFIG = TransformerConfig(num_layers=3, hidden_size=64, num_heads=4, ffn_size=128, bias=True)


def deviations(config: TransformerConfig) -> dict[str, list[float]]:
    """The deviation of every matrix by its name within a layer, layer by layer."""
    torch.manual_seed(0)
    found: dict[str, list[float]] = {}
    for layer in Transformer(config, Context.FULL).layers:
        for name, parameter in layer.named_parameters():
            if parameter.dim() == 2:
                found.setdefault(name.removesuffix(".weight"), []).append(float(parameter.detach().std()))
    return found


@pytest.mark.parametrize(
    ("changes", "std", "residual_std"),
    [
        ({}, 1 / 8, 1 / 8 / math.sqrt(6)),
        ({"scale_residual": False}, 1 / 8, 1 / 8),
        ({"initializer_range": 0.02}, 0.02, 0.02 / math.sqrt(6)),
        ({"initializer_range": 0.02, "scale_residual": False}, 0.02, 0.02),
        (
            {"initializer": "truncated_normal", "initializer_range": 0.02, "scale_residual": False},
            0.0176,
            0.0176,
        ),
    ],
    ids=["controlled", "unscaled", "gpt2", "gpt_2018", "bert_2018"],
)
def test_matrices_have_the_deviation_asked_for(changes, std, residual_std):
    found = deviations(replace(CONFIG, **changes))
    assert found.keys() == {"attention.qkv", "attention.out", "ffn.up", "ffn.down"}
    for name, values in found.items():
        expected = residual_std if name in ("attention.out", "ffn.down") else std
        assert values == pytest.approx([expected] * 3, rel=0.05), name


def test_truncated_normal_is_cut_at_two_deviations():
    encoder = Transformer(
        replace(CONFIG, initializer="truncated_normal", initializer_range=0.02), Context.FULL
    )
    largest = [float(p.detach().abs().max()) for p in encoder.parameters() if p.dim() == 2]
    assert max(largest) <= 0.04
    assert max(largest) > 0.039


def test_biases_start_at_0_and_norms_at_1():
    for name, parameter in Transformer(CONFIG, Context.FULL).named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (1 if name.endswith("norm.weight") else 0)).all(), name


@pytest.mark.parametrize(
    ("activation", "at_1"),
    [
        ("relu", 1.0),
        ("gelu", 0.5 * (1 + math.erf(1 / math.sqrt(2)))),
        ("gelu_tanh", 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))),
    ],
)
def test_activations_are_their_formulas(activation, at_1):
    feed_forward = FeedForward(replace(CONFIG, activation=activation, bias=False)).double()
    with torch.no_grad():
        feed_forward.up.weight.zero_()[:, 0] = 1.0
        feed_forward.down.weight.fill_(1 / 128)
        given = torch.zeros(1, 64, dtype=torch.double)
        given[0, 0] = 1.0
        assert float(feed_forward(given)[0, 0]) == pytest.approx(at_1, abs=1e-12)


def test_a_gate_multiplies_what_the_activation_raised():
    feed_forward = FeedForward(replace(CONFIG, activation="geglu", bias=False)).double()
    x = torch.randn(5, 64, dtype=torch.double)
    raised, gate = x @ feed_forward.up.weight[:128].t(), x @ feed_forward.up.weight[128:].t()
    expected = (0.5 * raised * (1 + torch.erf(raised / math.sqrt(2))) * gate) @ feed_forward.down.weight.t()
    torch.testing.assert_close(feed_forward(x), expected)
