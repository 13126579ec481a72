"""ELMo's encoder: projected LSTMs, one stack a direction, residual between layers, clipped states.

Peters et al. 2018, section 3.4; the projection is that of Sak, Senior and Beaufays 2014 (section 2),
the clipping bilm-tf's. PyTorch's own ``nn.LSTM`` clips nothing and cannot start a document afresh in
mid-row, so the recurrence is written here, with its gradient.
"""

from __future__ import annotations

import math

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
        dtype = _product_dtype(gates)
        weight, project = hidden_weight.to(dtype), projection.to(dtype)
        activations = gates.float() if gates.dtype != torch.float32 else gates.clone()
        cell_states = gates.new_empty(steps, stacks, rows, cells, dtype=torch.float32)
        outputs = gates.new_empty(steps, stacks, rows, cells, dtype=torch.float32)
        states = gates.new_empty(steps, stacks, rows, width, dtype=torch.float32)
        keep = (~starts).float()[..., None]
        restarts = starts.flatten(1).any(1).tolist()
        state = gates.new_zeros(stacks, rows, width, dtype=torch.float32)
        cell = gates.new_zeros(stacks, rows, cells, dtype=torch.float32)
        for t in range(steps):
            if restarts[t]:
                state, cell = state * keep[t], cell * keep[t]
            gate = activations[t]
            gate += torch.bmm(state.to(dtype), weight)
            gate[..., : 3 * cells].sigmoid_()
            gate[..., 3 * cells :].tanh_()
            into, forget, out, candidate = gate.split(cells, dim=-1)
            cell = torch.mul(forget, cell, out=cell_states[t]).addcmul_(into, candidate)
            cell.clamp_(-cell_clip, cell_clip)
            torch.mul(torch.tanh(cell), out, out=outputs[t])
            state = states[t]
            state.copy_(torch.bmm(outputs[t].to(dtype), project)).clamp_(-projection_clip, projection_clip)
        ctx.save_for_backward(activations, cell_states, outputs, states, keep, weight, project)
        ctx.restarts, ctx.clips = restarts, (cell_clip, projection_clip)
        ctx.dtypes = gates.dtype, hidden_weight.dtype
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states):  # type: ignore[override]
        activations, cell_states, outputs, states, keep, weight, project = ctx.saved_tensors
        cell_clip, projection_clip = ctx.clips
        steps, cells = len(cell_states), cell_states.shape[-1]
        dtype = weight.dtype
        back_weight, back_project = weight.transpose(1, 2), project.transpose(1, 2)
        grad_gates = torch.empty_like(activations)
        # a state that was clipped passes no gradient
        open_states = states.abs() < projection_clip
        open_cells = cell_states.abs() < cell_clip
        squashed = cell_states.tanh()
        grad_states = grad_states.float() * open_states
        grad_cell = torch.zeros_like(cell_states[0])
        for t in reversed(range(steps)):
            into, forget, out, candidate = activations[t].split(cells, dim=-1)
            grad_into, grad_forget, grad_out, grad_candidate = grad_gates[t].split(cells, dim=-1)
            grad_output = torch.bmm(grad_states[t].to(dtype), back_project).float()
            torch.mul(grad_output, squashed[t], out=grad_out)
            grad_cell = torch.addcmul(grad_cell, grad_output * out, 1 - squashed[t] * squashed[t])
            grad_cell *= open_cells[t]
            torch.mul(grad_cell, candidate, out=grad_into)
            torch.mul(grad_cell, into, out=grad_candidate)
            if t:
                torch.mul(grad_cell, cell_states[t - 1], out=grad_forget)
            else:
                grad_forget.zero_()
            if ctx.restarts[t]:
                grad_forget *= keep[t]
            sigmoids = activations[t][..., : 3 * cells]
            grad_gates[t][..., : 3 * cells] *= sigmoids - sigmoids * sigmoids
            grad_candidate *= 1 - candidate * candidate
            if t:
                grad_cell = grad_cell * forget
                back = torch.bmm(grad_gates[t].to(dtype), back_weight).float()
                if ctx.restarts[t]:
                    grad_cell, back = grad_cell * keep[t], back * keep[t]
                grad_states[t - 1] += back * open_states[t - 1]
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]]) * keep
        gates_dtype, weight_dtype = ctx.dtypes
        grad_weight = _over_steps(before, grad_gates, dtype).to(weight_dtype)
        grad_projection = _over_steps(outputs, grad_states, dtype).to(weight_dtype)
        return grad_gates.to(gates_dtype), None, grad_weight, grad_projection, None, None


def _over_steps(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over steps and rows of the outer products: (T, S, B, M) and (T, S, B, N) to (S, M, N)."""
    left = left.to(dtype).permute(1, 3, 0, 2).flatten(2)
    right = right.to(dtype).transpose(0, 1).flatten(1, 2)
    return torch.bmm(left, right)


def _product_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


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
        states = Recurrence.apply(
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
