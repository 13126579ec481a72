"""The steps of a projected LSTM, and their gradient, against a cell that autograd differentiates."""

from __future__ import annotations

import pytest
import torch

from lmzoo.nn import recurrence
from lmzoo.nn.recurrence import Recurrence, recur

STEPS, STACKS, ROWS, CELLS, WIDTH = 7, 2, 3, 5, 4


def cell_by_hand(gates, starts, hidden_weight, projection, cell_clip, projection_clip):
    """A projected LSTM in the plainest form, for autograd to differentiate."""
    steps, stacks, rows, _ = gates.shape
    cells = projection.shape[1]
    state = gates.new_zeros(stacks, rows, projection.shape[2])
    cell = gates.new_zeros(stacks, rows, cells)
    states = []
    for t in range(steps):
        keep = (~starts[t]).float()[..., None]
        state, cell = state * keep, cell * keep
        into, forget, out, candidate = (gates[t] + state @ hidden_weight).split(cells, dim=-1)
        cell = forget.sigmoid() * cell + into.sigmoid() * candidate.tanh()
        cell = cell.clamp(-cell_clip, cell_clip)
        state = ((out.sigmoid() * cell.tanh()) @ projection).clamp(-projection_clip, projection_clip)
        states.append(state)
    return torch.stack(states)


def inputs() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Gates, hidden weight and projection; where documents start; the gradient of the states."""
    torch.manual_seed(0)
    tensors = [
        torch.randn(STEPS, STACKS, ROWS, 4 * CELLS),
        torch.randn(STACKS, WIDTH, 4 * CELLS),
        torch.randn(STACKS, CELLS, WIDTH),
    ]
    starts = torch.rand(STEPS, STACKS, ROWS) < 0.2
    starts[0] = True
    starts[3] = False
    return tensors, starts, torch.randn(STEPS, STACKS, ROWS, WIDTH)


def results(function, clips, autocast=False) -> list[torch.Tensor]:
    """States and gradients."""
    tensors, starts, upstream = inputs()
    gates, weight, projection = (x.requires_grad_() for x in tensors)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states = function(gates, starts, weight, projection, *clips)
    assert states.dtype == torch.float32
    (states * upstream).sum().backward()
    return [states, *(x.grad for x in (gates, weight, projection))]  # type: ignore[list-item]


@pytest.mark.parametrize("steps", [1, 3, 7], ids=lambda n: f"blocks of {n}")
@pytest.mark.parametrize(
    "clips", [(3.0, 3.0), (0.3, 0.2), (float("inf"), float("inf"))], ids=["open", "clipping", "none"]
)
def test_recurrence_equals_the_cell_written_by_hand(clips, steps, monkeypatch):
    monkeypatch.setattr(recurrence, "BLOCK", steps * STACKS * ROWS * 4 * CELLS)
    for ours, by_hand in zip(results(Recurrence.apply, clips), results(cell_by_hand, clips), strict=True):
        torch.testing.assert_close(ours, by_hand, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("clips", [(3.0, 3.0), (0.3, 0.2)], ids=["open", "clipping"])
def test_products_in_16_bits_are_close(clips, monkeypatch):
    monkeypatch.setattr(recurrence, "SMALL_PRODUCT", 0)
    monkeypatch.setattr(recurrence, "BLOCK", 2 * STACKS * ROWS * 4 * CELLS)
    exact = results(cell_by_hand, clips)
    for number, (ours, by_hand) in enumerate(
        zip(results(Recurrence.apply, clips, autocast=True), exact, strict=True)
    ):
        difference = (ours - by_hand).detach().norm() / by_hand.detach().norm()
        # a state that is rounded to the other side of a clip passes its gradient or not
        assert 0 < difference < (0.15 if number and clips[0] < 1 else 0.06)


def test_without_a_gradient_nothing_is_kept_and_the_states_are_the_same(monkeypatch):
    tensors, starts, _ = inputs()
    monkeypatch.setattr(recurrence, "BLOCK", 2 * STACKS * ROWS * 4 * CELLS)
    expected = Recurrence.apply(*tensors[:1], starts, *tensors[1:], 0.5, 0.5)
    with torch.no_grad():
        assert torch.equal(recur(tensors[0], starts, *tensors[1:], (0.5, 0.5)), expected)


def test_what_is_given_is_left_as_it_was():
    tensors, starts, _ = inputs()
    before = [x.clone() for x in tensors]
    recur(tensors[0], starts, *tensors[1:], (3.0, 3.0))
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)
