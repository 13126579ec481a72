"""The scalar mix against its formulas in numpy, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmzoo.nn.scalar_mix import ScalarMix

LAYERS = np.array(
    [
        [[[1.0, 2.0], [3.0, 4.0], [90.0, -70.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]],
        [[[0.0, -1.0], [2.0, 0.5], [40.0, 50.0]], [[-3.0, 1.0], [0.0, 4.0], [2.0, -2.0]]],
        [[[100.0, 200.0], [0.0, 0.0], [1e4, -1e4]], [[-100.0, 50.0], [25.0, 75.0], [0.0, 10.0]]],
    ]
)
"""(3, B, T, D) = (3, 2, 3, 2)"""
MASK = np.array([[1, 1, 0], [1, 1, 1]])
WEIGHTS, GAMMA = np.array([0.5, -1.0, 2.0]), 1.5
SHARES = np.exp(WEIGHTS) / (np.exp(0.5) + np.exp(-1.0) + np.exp(2.0))


def mixed(layer_norm: bool, mask=MASK, layers=LAYERS) -> np.ndarray:
    mix = ScalarMix(3, layer_norm=layer_norm)
    with torch.no_grad():
        mix.weights.copy_(torch.from_numpy(WEIGHTS))
        mix.gamma.fill_(GAMMA)
        given = [torch.from_numpy(layer).float() for layer in layers]
        return mix(given, torch.from_numpy(mask).bool()).numpy()


def test_without_layer_norm_it_is_equation_1():
    expected = GAMMA * (SHARES[0] * LAYERS[0] + SHARES[1] * LAYERS[1] + SHARES[2] * LAYERS[2])
    np.testing.assert_allclose(mixed(False), expected, rtol=1e-5)
    # by hand, at the first number: 1.5 · (0.1753 · 1 + 0.0391 · 0 + 0.7856 · 100)
    assert mixed(False)[0, 0, 0] == pytest.approx(118.1, abs=0.1)


def test_with_layer_norm_each_layer_has_one_mean_and_variance_over_all_that_is_no_padding():
    expected = np.zeros_like(LAYERS[0])
    for share, layer in zip(SHARES, LAYERS, strict=True):
        values = [
            number
            for row, kept in zip(layer, MASK, strict=True)
            for vector, keep in zip(row, kept, strict=True)
            for number in vector
            if keep
        ]
        assert len(values) == 10
        mean = sum(values) / 10
        variance = sum((value - mean) ** 2 for value in values) / 10
        expected += share * (layer - mean) / np.sqrt(variance + 1e-13)
    np.testing.assert_allclose(mixed(True), GAMMA * expected, rtol=1e-4, atol=1e-5)
    # the first layer's mean is 5.5 and its variance 8.25
    alone = ScalarMix(1, layer_norm=True)([torch.from_numpy(LAYERS[0])], torch.from_numpy(MASK).bool())
    assert float(alone[0, 0, 0].detach()) == pytest.approx((1 - 5.5) / 8.25**0.5)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_padding_changes_nothing_elsewhere(layer_norm):
    changed = LAYERS.copy()
    changed[:, 0, 2] = 1234.5
    one, other = mixed(layer_norm), mixed(layer_norm, layers=changed)
    np.testing.assert_array_equal(one[MASK == 1], other[MASK == 1])


def test_layer_norm_looks_at_the_mask():
    everything = np.ones_like(MASK)
    assert np.abs(mixed(True) - mixed(True, mask=everything)).max() > 0.1
    np.testing.assert_array_equal(mixed(False), mixed(False, mask=everything))


def test_at_first_it_is_the_mean_of_the_layers():
    given = [torch.from_numpy(layer) for layer in LAYERS]
    mix = ScalarMix(3).double()
    np.testing.assert_allclose(mix(given, torch.ones(2, 3)).detach(), LAYERS.mean(0))


def test_a_constant_layer_is_mixed_as_0():
    given = [torch.full((1, 2, 2), 3.0)]
    assert (ScalarMix(1, layer_norm=True)(given, torch.ones(1, 2)) == 0).all()


def test_the_epsilon_is_added_to_the_variance():
    given = [torch.tensor([[[3e-7], [-3e-7]]])]
    mixed = ScalarMix(1, layer_norm=True)(given, torch.ones(1, 2)).flatten().tolist()
    assert mixed == pytest.approx([3 / 19**0.5, -3 / 19**0.5], rel=1e-4)


@pytest.mark.parametrize("trainable", [True, False])
def test_weights_and_gamma_learn_only_where_they_may(trainable):
    mix = ScalarMix(3, trainable=trainable)
    states = [torch.from_numpy(layer).requires_grad_() for layer in LAYERS]
    mix(states, torch.from_numpy(MASK)).square().sum().backward()
    assert all(state.grad is not None for state in states)
    for parameter in (mix.weights, mix.gamma):
        assert (parameter.grad is not None) is trainable


def test_another_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="a mix of 3 layers was given 2"):
        ScalarMix(3)([torch.zeros(1, 1, 1)] * 2, torch.ones(1, 1))
