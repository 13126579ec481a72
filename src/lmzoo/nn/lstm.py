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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lmzoo.nn.cache import StateCache, past_only
from lmzoo.nn.config import LstmConfig
from lmzoo.nn.initial import draw_matrix
from lmzoo.types import Cache, Context, Hidden, Trace


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
        dtype = _product_dtype(hidden_weight)
        weight, project = hidden_weight.to(dtype), projection.to(dtype)
        clips = cell_clip, projection_clip
        activations, cell_states, outputs, states, keep = _walk(gates, starts, weight, project, clips)
        ctx.save_for_backward(activations, cell_states, outputs, states, keep, weight, project)
        ctx.clips = clips
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


def _walk(
    gates: Tensor,
    starts: Tensor,
    weight: Tensor,
    project: Tensor,
    clips: tuple[float, float],
    before: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The steps themselves; the arguments are those of ``Recurrence.forward``, in the products' type.

    Args:
        before: (S, B, P) projected states and (S, B, C) cells before the first step; else 0.

    Returns:
        (T, S, B, 4C) activated gates, (T, S, B, C) cells, (T, S, B, C) their outputs, (T, S, B, P)
        projected states, and (T, S, B, 1) what the states were multiplied with before each step.
    """
    cell_clip, projection_clip = clips
    steps, stacks, rows, _ = gates.shape
    cells, width = project.shape[1:]
    activations = gates.to(torch.float32, copy=True)
    cell_states, outputs = activations.new_empty(2, steps, stacks, rows, cells)
    states = activations.new_empty(steps, stacks, rows, width)
    keep = (~starts).float()[..., None]
    restarts = starts.flatten(1).any(1).tolist()
    state, cell = before or (
        states.new_zeros(states.shape[1:]),
        cell_states.new_zeros(cell_states.shape[1:]),
    )
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
    return activations, cell_states, outputs, states, keep


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
    """Weights of one layer of one direction; the gates in the order input, forget, output, candidate."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        assert config.hidden_size and config.cell_size
        width, cells = config.hidden_size, config.cell_size
        self.input_weight = nn.Parameter(torch.empty(4 * cells, width))
        self.hidden_weight = nn.Parameter(torch.empty(4 * cells, width))
        self.bias = nn.Parameter(torch.zeros(4 * cells))
        self.projection = nn.Parameter(torch.empty(width, cells))
        if config.initializer == "glorot":
            # TensorFlow's cell draws the two as one matrix, whose shape sets the range
            limit = math.sqrt(6 / (2 * width + 4 * cells))
            nn.init.uniform_(self.input_weight, -limit, limit)
            nn.init.uniform_(self.hidden_weight, -limit, limit)
        else:
            std = config.initializer_range or 1 / math.sqrt(width)
            draw_matrix(self.input_weight, config, std)
            draw_matrix(self.hidden_weight, config, std)
        draw_matrix(self.projection, config, config.initializer_range or 1 / math.sqrt(cells))
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
        return nn.ModuleList(LstmLayer(self.config) for _ in range(self.config.num_layers or 0))

    def forward(self, x: Tensor, documents: Tensor, positions: Tensor, trace: Trace | None = None) -> Hidden:
        """Encode (B, T, D) with (B, T) document numbers; the states start afresh with each document.

        A trace is given each layer's states and, if it wants them, the mean activity of its gates, both
        streams in the order of the text.
        """
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
        for depth, stack in enumerate(zip(*stacks, strict=True)):
            layers = cast(tuple[LstmLayer, ...], stack)
            states = self._layer(side_by_side, starts, layers)
            if trace is not None and trace.want_gates:
                trace.gates.append(_streams(_gate_activity(side_by_side, states, starts, layers)))
            out = self.dropout(states.to(layers[0].bias.dtype))  # another than 32 bits in a model cast whole
            side_by_side = out + side_by_side if depth else out
            if trace is not None:
                trace.layers.append(_streams(side_by_side))
        streams = _streams(side_by_side)
        if self.future is None:
            return Hidden(Context.PAST, states=streams[0])
        return Hidden(Context.APART, past=streams[0], future=streams[1])

    def _layer(self, x: Tensor, starts: Tensor, layers: tuple[LstmLayer, ...]) -> Tensor:
        """One layer of all stacks: (T, S, B, D) to (T, S, B, D)."""
        return recur(
            _input_shares(x, layers),
            starts,
            torch.stack([layer.hidden_weight.t() for layer in layers]),
            torch.stack([layer.projection.t() for layer in layers]),
            self.config.cell_clip,
            self.config.projection_clip,
        )

    def start(self, rows: int, capacity: int) -> Cache:
        """An empty cache for ``rows`` rows; it takes the same room for any number of tokens.

        Raises:
            TypeError: there is a future stack too.
        """
        if self.context is not Context.PAST:
            raise past_only(self.context)
        weight = cast(LstmLayer, self.past[0]).projection
        width, cells = weight.shape
        return StateCache(rows, (width, cells), len(self.past), weight.device)

    @torch.no_grad()
    def extend(self, x: Tensor, positions: Tensor, is_text: Tensor, cache: Cache) -> Tensor:
        """Encode tokens that follow those in the cache, and add them to it; no gradient is kept.

        Args:
            x: (B, T, D) embedded tokens.
            positions: (B, T) int64, not looked at.
            is_text: (B, T) bool, False where there is padding: a row's states are 0 where its text begins.
            cache: what ``start`` gave.

        Returns:
            (B, T, D); of padding, finite and without a meaning.

        Raises:
            TypeError: there is a future stack too.
        """
        if self.context is not Context.PAST:
            raise past_only(self.context)
        assert isinstance(cache, StateCache)
        starts = cache.admit(is_text).t()[:, None]
        side_by_side = x.transpose(0, 1)[:, None]  # (T, 1, B, D)
        clips = self.config.cell_clip, self.config.projection_clip
        for depth, module in enumerate(self.past):
            layer = cast(LstmLayer, module)
            weight, project = layer.hidden_weight.t()[None], layer.projection.t()[None]
            dtype = _product_dtype(weight)
            _, cell_states, _, states, _ = _walk(
                _input_shares(side_by_side, (layer,)),
                starts,
                weight.to(dtype),
                project.to(dtype),
                clips,
                cache.states[depth],
            )
            # copies, so that a long prompt's steps are not kept alive
            cache.states[depth] = states[-1].clone(), cell_states[-1].clone()
            out = self.dropout(states.to(layer.bias.dtype))
            side_by_side = out + side_by_side if depth else out
        return side_by_side[:, 0].transpose(0, 1)

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward pass a token: two a weight of every matrix."""
        return 2 * sum(p.numel() for p in self.parameters() if p.dim() == 2)


def _input_shares(x: Tensor, layers: tuple[LstmLayer, ...]) -> Tensor:
    """What the input adds to the gates of all stacks: (T, S, B, D) to (T, S, B, 4C)."""
    return torch.stack(
        [
            F.linear(x[:, s].to(layer.bias.dtype), layer.input_weight, layer.bias)
            for s, layer in enumerate(layers)
        ],
        dim=1,
    )


def _gate_activity(x: Tensor, states: Tensor, starts: Tensor, layers: tuple[LstmLayer, ...]) -> Tensor:
    """Mean over the cells of the input, forget and output gates: (T, S, B, 3).

    Args:
        x: (T, S, B, D) what the layer read.
        states: (T, S, B, P) the projected states that the recurrence gave.
        starts: (T, S, B) bool, True where a document starts.
        layers: the layer's weights, one of each stack.
    """
    before = _shifted(states) * ~starts[..., None]
    shares = [F.linear(before[:, s], layer.hidden_weight) for s, layer in enumerate(layers)]
    gates = _input_shares(x, layers).float() + torch.stack(shares, dim=1)
    return torch.stack([gate.sigmoid().mean(-1) for gate in gates.chunk(4, dim=-1)[:3]], dim=-1)


def _streams(side_by_side: Tensor) -> tuple[Tensor, ...]:
    """(T, S, B, N) as a tensor (B, T, N) a stack, the future's in the order of the text."""
    past, *future = side_by_side.unbind(dim=1)
    return past.transpose(0, 1), *(rows.flip(0).transpose(0, 1) for rows in future)
