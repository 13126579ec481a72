"""ELMo's encoder: projected LSTMs, one stack a direction, residual between layers, clipped states.

Peters et al. 2018, section 3.4; the projection is that of Sak, Senior and Beaufays 2014 (section 2),
the clipping bilm-tf's. PyTorch's own ``nn.LSTM`` clips nothing and cannot start a document afresh in
mid-row, so the recurrence is written here, with its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lmzoo.nn.config import LstmConfig
from lmzoo.types import Context, Hidden


class Recurrence(torch.autograd.Function):
    """The part of a projected LSTM that must go step by step, for S stacks side by side.

    Forward keeps the activations of every step; backward walks them in reverse and leaves the
    gradients of the weights to one product over all steps. The states are kept in 32 bits.
    """

    @staticmethod
    def forward(ctx, gates, starts, hidden_weight, projection, cell_clip, projection_clip):
        """
        Args:
            gates: (T, S, B, 4C) the input's share of the gates: input, forget, output, candidate.
            starts: (T, S, B) bool, True where a document starts and the states are 0.
            hidden_weight: (S, P, 4C) from the projected state to the gates.
            projection: (S, C, P) from the cells' output to the projected state.
            cell_clip, projection_clip: largest absolute value of a cell and of a projected state.

        Returns:
            (T, S, B, P) the projected states.
        """
        steps, stacks, rows, _ = gates.shape
        cells, width = projection.shape[1:]
        dtype = _product_dtype(hidden_weight)
        weight, project = hidden_weight.to(dtype), projection.to(dtype)
        activations = gates.to(torch.float32, copy=True)
        cell_states, outputs = activations.new_empty(2, steps, stacks, rows, cells)
        states = activations.new_empty(steps, stacks, rows, width)
        keep = (~starts).float()[..., None]
        restarts = starts.flatten(1).any(1).tolist()
        state, cell = states.new_zeros(states.shape[1:]), cell_states.new_zeros(cell_states.shape[1:])
        # all views at once: a step is so small that indexing would be a good part of it
        gate_of = activations.unbind()
        sigmoid_of, tanh_of = activations[..., : 3 * cells].unbind(), activations[..., 3 * cells :].unbind()
        into_of, forget_of, out_of = (part.unbind() for part in activations.split(cells, dim=-1)[:3])
        cell_of, output_of, state_of = cell_states.unbind(), outputs.unbind(), states.unbind()
        for t in range(steps):
            if restarts[t]:
                state, cell = state * keep[t], cell * keep[t]
            _add_product(gate_of[t], state, weight)
            sigmoid_of[t].sigmoid_()
            tanh_of[t].tanh_()
            cell = torch.mul(forget_of[t], cell, out=cell_of[t])
            cell.addcmul_(into_of[t], tanh_of[t]).clamp_(-cell_clip, cell_clip)
            torch.mul(torch.tanh(cell), out_of[t], out=output_of[t])
            state = _product(output_of[t], project, out=state_of[t])
            state.clamp_(-projection_clip, projection_clip)
        ctx.save_for_backward(activations, cell_states, outputs, states, keep, weight, project)
        ctx.clips = cell_clip, projection_clip
        ctx.dtypes = gates.dtype, hidden_weight.dtype
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states):  # type: ignore[override]
        activations, cell_states, outputs, states, keep, weight, project = ctx.saved_tensors
        cell_clip, projection_clip = ctx.clips
        into, forget, out, candidate = activations.split(cell_states.shape[-1], dim=-1)
        cells_before = _shifted(cell_states) * keep
        squashed = cell_states.tanh()
        # what does not depend on later steps is worked out for all steps at once
        by_cell = out * (1 - squashed * squashed)
        by_gates = torch.stack(
            [
                into * (1 - into) * candidate,
                forget * (1 - forget) * cells_before,
                out * (1 - out) * squashed,
                (1 - candidate * candidate) * into,
            ],
            dim=-2,
        )
        # a state that was clipped passes no gradient, and none passes the start of a document
        open_cells = (cell_states.abs() < cell_clip).float()
        open_states = (states.abs() < projection_clip).float()
        grad_states = grad_states.float() * open_states
        carried = forget * keep
        passed = torch.cat([open_states[:1], open_states[:-1] * keep[1:]])
        grad_gates = torch.empty_like(by_gates)
        back_weight, back_project = weight.transpose(1, 2), project.transpose(1, 2)
        by_cell_of, by_gates_of, by_out_of = by_cell.unbind(), by_gates.unbind(), by_gates[..., 2, :].unbind()
        grad_gates_of, grad_out_of = grad_gates.unbind(), grad_gates[..., 2, :].unbind()
        grad_flat_of = grad_gates.flatten(-2).unbind()
        open_of, carried_of, passed_of = open_cells.unbind(), carried.unbind(), passed.unbind()
        grad_state_of = grad_states.unbind()
        grad_cell = torch.zeros_like(cell_states[0])
        for t in range(len(states) - 1, -1, -1):
            grad_output = _product(grad_state_of[t], back_project)
            grad_cell = torch.addcmul(grad_cell, grad_output, by_cell_of[t]).mul_(open_of[t])
            torch.mul(by_gates_of[t], grad_cell.unsqueeze(-2), out=grad_gates_of[t])
            torch.mul(by_out_of[t], grad_output, out=grad_out_of[t])
            if t:
                grad_cell.mul_(carried_of[t])
                grad_state_of[t - 1].addcmul_(_product(grad_flat_of[t], back_weight), passed_of[t])
        grad_gates = grad_gates.flatten(-2)
        gates_dtype, weight_dtype = ctx.dtypes
        grad_weight = _over_steps(_shifted(states) * keep, grad_gates, weight.dtype).to(weight_dtype)
        grad_projection = _over_steps(outputs, grad_states, weight.dtype).to(weight_dtype)
        return grad_gates.to(gates_dtype), None, grad_weight, grad_projection, None, None


# unrolled over hundreds of steps, it would be compiled for minutes
recur = cast(Callable[..., Tensor], torch.compiler.disable(Recurrence.apply))


def _shifted(x: Tensor) -> Tensor:
    """Each step's value a step later, zeros first."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _product(x: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """x W in the weight's type, given back in 32 bits."""
    if weight.dtype == torch.float32:
        return torch.bmm(x, weight) if out is None else torch.bmm(x, weight, out=out)
    product = torch.bmm(x.to(weight.dtype), weight)
    return product.float() if out is None else out.copy_(product)


def _add_product(to: Tensor, x: Tensor, weight: Tensor) -> None:
    if weight.dtype == torch.float32:
        to.baddbmm_(x, weight)
    else:
        to += torch.bmm(x.to(weight.dtype), weight)


def _over_steps(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over steps and rows of the outer products: (T, S, B, M) and (T, S, B, N) to (S, M, N)."""
    left = left.to(dtype).permute(1, 3, 0, 2).flatten(2)
    right = right.to(dtype).transpose(0, 1).flatten(1, 2)
    return torch.bmm(left, right)


SMALL_PRODUCT = 2**17
"""Weights of a stack below which a CPU loses more to 16-bit conversions than it gains."""


def _product_dtype(weight: Tensor) -> torch.dtype:
    device = weight.device.type
    small = device == "cpu" and weight[0].numel() < SMALL_PRODUCT
    if small or not torch.is_autocast_enabled(device):
        return torch.float32
    return torch.get_autocast_dtype(device)


class LstmLayer(nn.Module):
    """Weights of one layer of one direction."""

    def __init__(self, width: int, cells: int) -> None:
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(4 * cells, width))
        self.hidden_weight = nn.Parameter(torch.empty(4 * cells, width))
        self.bias = nn.Parameter(torch.zeros(4 * cells))
        self.projection = nn.Parameter(torch.empty(width, cells))
        nn.init.normal_(self.input_weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.hidden_weight, std=1 / math.sqrt(width))
        nn.init.normal_(self.projection, std=1 / math.sqrt(cells))
        # a forget gate that starts open (Jozefowicz et al. 2015, section 2.2)
        nn.init.ones_(self.bias[cells : 2 * cells])


class BiLstm(nn.Module):
    """Stacks of projected LSTMs: past and future (``APART``), or the past alone (``PAST``).

    The two stacks share no weight and never see each other's states; they are stepped side by side
    only so that a step is one product for both.
    """

    def __init__(self, config: LstmConfig, context: Context) -> None:
        super().__init__()
        assert config.num_layers and config.hidden_size and config.cell_size
        assert context in (Context.APART, Context.PAST)
        self.context = context
        self.config = config
        self.past = self._stack()
        self.future = self._stack() if context is Context.APART else None
        self.dropout = nn.Dropout(config.dropout)

    def _stack(self) -> nn.ModuleList:
        config = self.config
        assert config.num_layers and config.hidden_size and config.cell_size
        return nn.ModuleList(
            LstmLayer(config.hidden_size, config.cell_size) for _ in range(config.num_layers)
        )

    def forward(self, x: Tensor, documents: Tensor, positions: Tensor) -> Hidden:
        """Encode (B, T, D) with (B, T) document numbers; the states start afresh with each document."""
        # time first, so that a step is one block of memory; the future stack reads the mirrored row
        forward_rows, documents = x.transpose(0, 1), documents.t()
        stacks, inputs, numbers = [self.past], [forward_rows], [documents]
        if self.future is not None:
            stacks, inputs, numbers = (
                [*stacks, self.future],
                [*inputs, forward_rows.flip(0)],
                [*numbers, documents.flip(0)],
            )
        side_by_side = torch.stack(inputs, dim=1)  # (T, S, B, D)
        order = torch.stack(numbers, dim=1)
        starts = torch.ones_like(order, dtype=torch.bool)
        starts[1:] = order[1:] != order[:-1]
        for depth, layers in enumerate(zip(*stacks, strict=True)):
            out = self._layer(side_by_side, starts, layers)
            side_by_side = out + side_by_side if depth else out
        past, *future = side_by_side.unbind(dim=1)
        if self.future is None:
            return Hidden(Context.PAST, states=past.transpose(0, 1))
        return Hidden(Context.APART, past=past.transpose(0, 1), future=future[0].flip(0).transpose(0, 1))

    def _layer(self, x: Tensor, starts: Tensor, layers: tuple[nn.Module, ...]) -> Tensor:
        """One layer of all stacks: (T, S, B, D) to (T, S, B, D)."""
        gates = torch.stack(
            [nn.functional.linear(x[:, s], layer.input_weight, layer.bias) for s, layer in enumerate(layers)],  # type: ignore[arg-type]
            dim=1,
        )
        states = recur(
            gates,
            starts,
            torch.stack([layer.hidden_weight.t() for layer in layers]),  # type: ignore[operator]
            torch.stack([layer.projection.t() for layer in layers]),  # type: ignore[operator]
            self.config.cell_clip,
            self.config.projection_clip,
        )
        return self.dropout(states)

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward pass a token: two a weight of every matrix."""
        return 2 * sum(p.numel() for p in self.parameters() if p.dim() == 2)
