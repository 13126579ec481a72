"""ELMo's mixture of layers (Peters et al. 2018, equation 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TINY = 1e-13
"""Added to the variance, as the AllenNLP release adds it: it keeps a constant layer from dividing by 0."""


class ScalarMix(nn.Module):
    """γ Σ_j softmax(w)_j h_j over the layers h_0 … h_{L-1}, at first their mean.

    With ``layer_norm`` each layer is first made (h_j - μ_j) / √(σ²_j + 1e-13), as in the AllenNLP
    release: μ_j and σ²_j are one mean and one variance for the layer, over all dimensions of all
    positions of the batch that are not padding, so that the weights compare layers of one scale.
    """

    def __init__(self, num_layers: int, layer_norm: bool = False, trainable: bool = True) -> None:
        """
        Args:
            num_layers: L.
            layer_norm: whether the layers are brought to one scale.
            trainable: whether w and γ take gradients.
        """
        super().__init__()
        self.layer_norm = layer_norm
        self.weights = nn.Parameter(torch.zeros(num_layers), requires_grad=trainable)
        """(L,) w"""
        self.gamma = nn.Parameter(torch.ones(()), requires_grad=trainable)
        """() γ"""

    def forward(self, layers: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Mix L tensors (B, T, D) into one.

        Args:
            layers: the states of every layer.
            mask: (B, T) bool, True where a position is no padding; looked at with ``layer_norm`` alone.

        Raises:
            ValueError: there are more or fewer layers than weights.
        """
        if len(layers) != len(self.weights):
            raise ValueError(f"a mix of {len(self.weights)} layers was given {len(layers)}")
        if self.layer_norm:
            layers = [_normalized(layer, mask) for layer in layers]
        shares = self.weights.softmax(0)
        return self.gamma * sum(share * layer for share, layer in zip(shares, layers, strict=True))


def _normalized(layer: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) less its mean, over its deviation, both taken where the (B, T) mask is True."""
    seen = mask.bool()[..., None]
    count = seen.sum() * layer.shape[-1]
    mean = layer.masked_fill(~seen, 0.0).sum() / count
    centred = layer - mean
    variance = centred.masked_fill(~seen, 0.0).square().sum() / count
    return centred / (variance + TINY).sqrt()
