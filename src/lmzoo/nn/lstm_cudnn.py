"""A layer of projected LSTMs by PyTorch's own, which on a GPU is one call of cuDNN for all steps.

The same mathematics as ``recurrence.py`` where nothing is clipped. PyTorch's LSTM cannot start a document
afresh in mid-row, but it takes sequences of unequal length: so each document of a row is handed over as a
sequence of its own. In 16 bits cuDNN rounds the cells too, which ``recurrence.py`` keeps in 32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from lmzoo.nn.config import LstmConfig


class Weights(Protocol):
    """One layer of one direction; the gates in the order input, forget, output, candidate."""

    input_weight: Tensor
    hidden_weight: Tensor
    bias: Tensor
    projection: Tensor


def cudnn_serves(config: LstmConfig, device: torch.device) -> bool:
    """Whether cuDNN can do what the config says; where a GPU's cannot, it is said once."""
    if device.type != "cuda":
        return False
    clips = {"cell_clip": config.cell_clip, "projection_clip": config.projection_clip}
    acting = [f"model.{name}={value:g}" for name, value in clips.items() if value]
    if acting:
        warnings.warn(
            f"cuDNN's LSTM clips nothing, so that {' and '.join(acting)} must be computed step by step, "
            "which a GPU does slowly; without clipping (both 0, other mathematics) cuDNN computes them",
            stacklevel=2,
        )
    elif not torch.backends.cudnn.is_available():
        warnings.warn("there is no cuDNN, so that the LSTM is computed step by step, slowly", stacklevel=2)
    return not acting and torch.backends.cudnn.is_available()


class Sequences:
    """The documents of (T, B) rows as sequences: the longest first, and their steps side by side.

    Args:
        starts: (T, B) bool, True where a document starts.
    """

    def __init__(self, starts: Tensor) -> None:
        steps, rows = starts.shape
        starts = starts.clone()
        starts[0] = True
        first = starts.t().flatten().nonzero().squeeze(1)  # rows one after the other
        lengths = torch.diff(first, append=first.new_tensor([starts.numel()]))
        lengths, order = lengths.sort(descending=True)
        step = torch.arange(int(lengths[0]), device=starts.device)[:, None]
        lasts = step < lengths  # (longest, N)
        places = (first[order] + step)[lasts]
        self.places = places % steps * rows + places // steps
        """(T·B,) place of each packed element among the (T, B)."""
        self.back = self.places.argsort()
        self.counts = lasts.sum(1).cpu()
        """Sequences that last at each step; PyTorch wants them on the CPU."""


@torch.compiler.disable
def run_layer(x: Tensor, sequences: Sequence[Sequences], layers: Sequence[Weights]) -> Tensor:
    """One layer of S stacks: (S, T, B, D) to the projected states, (S, T, B, P).

    Args:
        x: what the layer reads.
        sequences: the documents of each stack.
        layers: the weights of each stack.
    """
    device = x.device.type
    dtype = layers[0].bias.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    # autocast would hand 16-bit floats over whatever its own type
    with torch.autocast(device, enabled=False), warnings.catch_warnings():
        # weights that were cast and reordered are copied into cuDNN's form at each call: little work
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        outputs = [
            _run(rows.flatten(0, 1).to(dtype), documents, layer, dtype).unflatten(0, rows.shape[:2])
            for rows, documents, layer in zip(x, sequences, layers, strict=True)
        ]
    return torch.stack(outputs)


def _run(x: Tensor, sequences: Sequences, layer: Weights, dtype: torch.dtype) -> Tensor:
    """(T·B, D) to (T·B, P)."""
    width, cells = layer.projection.shape
    count = int(sequences.counts[0])
    weights = [_their_order(w) for w in (layer.input_weight, layer.hidden_weight, layer.bias)]
    weights += [torch.zeros_like(layer.bias), layer.projection]
    states, _, _ = torch.lstm(
        x[sequences.places],
        sequences.counts,
        [x.new_zeros(1, count, width), x.new_zeros(1, count, cells)],
        [weight.to(dtype) for weight in weights],
        True,  # with biases
        1,  # layer
        0.0,  # dropout
        torch.is_grad_enabled(),
        False,  # one direction
    )
    return states[sequences.back]


def _their_order(weight: Tensor) -> Tensor:
    """The gates in PyTorch's order: input, forget, candidate, output."""
    into, forget, out, candidate = weight.chunk(4)
    return torch.cat([into, forget, candidate, out])
