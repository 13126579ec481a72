"""The part of a projected LSTM that must go step by step, with its gradient written out.

A step of a small model is so little work that what surrounds its two products costs as much as they do:
memory that is touched for the first time, passes over arrays that no cache holds, the calls themselves. So
the steps are taken in blocks whose arrays stay in the cache, every call has room set aside for its result,
and what does not depend on the neighbouring steps is worked out for a block at once.

Tensors are told as (T, S, B, N): steps, stacks side by side, rows, width; in memory the stacks come first
where all steps are kept, so that products over all steps need no copy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**20
"""Gates of a block of steps: 4 MB, which a CPU's cache holds."""
SMALL_PRODUCT = 2**16
"""Weights of a stack below which a CPU loses more to 16-bit conversions than it gains."""
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_clamp_backward = torch.ops.aten.hardtanh_backward.grad_input  # what was clipped passes no gradient


class Recurrence(torch.autograd.Function):
    """The recurrence of S stacks side by side.

    Forward keeps the activations of every step; backward walks them in reverse and leaves the
    gradients of the weights to one product over all steps. The cells are kept in 32 bits.
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
            (T, S, B, P) the projected states, in 32 bits.
        """
        dtype = product_dtype(hidden_weight)
        weight, project = hidden_weight.to(dtype), projection.to(dtype)
        walk = Walk(weight, project, (cell_clip, projection_clip))
        activations: list[Tensor] = []
        states, cells, outputs = walk(gates, starts, activations)
        ctx.save_for_backward(starts, weight, project, states, cells, outputs, *activations)
        ctx.clips = cell_clip, projection_clip
        ctx.dtypes = gates.dtype, hidden_weight.dtype
        return states.float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states):  # type: ignore[override]
        starts, weight, project, states, cells, outputs, *activations = ctx.saved_tensors
        keep, restarts = _keep(starts), _restarts(starts)
        grad_gates, grad_projected = _walk_back(
            grad_states, keep, restarts, weight, project, states, cells, activations, ctx.clips
        )
        gates_dtype, weight_dtype = ctx.dtypes
        before = states[:-1]
        if any(restarts[1:]):
            before = before * keep[1:].to(before.dtype)
        grad_weight = _over_steps(before, grad_gates[1:]).to(weight_dtype)
        grad_projection = _over_steps(outputs, grad_projected).to(weight_dtype)
        return grad_gates.to(gates_dtype), None, grad_weight, grad_projection, None, None


# unrolled over hundreds of steps, it would be compiled for minutes
@torch.compiler.disable
def recur(
    gates: Tensor, starts: Tensor, hidden_weight: Tensor, projection: Tensor, clips: tuple[float, float]
) -> Tensor:
    """The projected states; the arguments are those of ``Recurrence.forward``."""
    if torch.is_grad_enabled():
        return Recurrence.apply(gates, starts, hidden_weight, projection, *clips)  # type: ignore[return-value]
    dtype = product_dtype(hidden_weight)
    states, _, _ = Walk(hidden_weight.to(dtype), projection.to(dtype), clips)(gates, starts)
    return states.float()


class Walk:
    """The steps forward, for S stacks with these weights.

    Args:
        weight: (S, P, 4C) from the projected state to the gates, in the products' type.
        project: (S, C, P) from the cells' output to the projected state, in the same type.
        clips: largest absolute value of a cell and of a projected state.
    """

    def __init__(self, weight: Tensor, project: Tensor, clips: tuple[float, float]) -> None:
        self.cells, self.width = project.shape[1:]
        self.weight, self.project = weight.clone(), project
        # tanh x = 2 σ(2x) - 1: with the candidate doubled, one call of the sigmoid serves all gates
        self.weight[..., 3 * self.cells :] *= 2
        self.clips = clips

    @torch.no_grad()
    def __call__(
        self,
        gates: Tensor,
        starts: Tensor,
        activations: list[Tensor] | None = None,
        before: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            gates: (T, S, B, 4C) the input's share.
            starts: (T, S, B) bool, True where the states are 0 before the step.
            activations: takes the activated gates, a (K, S, B, 4C) tensor for every block of K steps.
            before: (S, B, P) projected states and (S, B, C) cells before the first step; else 0.

        Returns:
            (T, S, B, P) the projected states in the products' type, (T + 1, S, B, C) the cells before
            each step and after the last, and (T, S, B, C) their outputs in the products' type.
        """
        steps, stacks, rows, _ = gates.shape
        dtype, cells = self.weight.dtype, self.cells
        states = _stacks_first(gates, steps, stacks, rows, self.width, dtype=dtype)
        outputs = _stacks_first(gates, steps, stacks, rows, cells, dtype=dtype)
        cell_states = _stacks_first(gates, steps + 1, stacks, rows, cells)
        keep, restarts = _keep(starts), _restarts(starts)
        if before is None:
            state, cell = states.new_zeros(states.shape[1:]), cell_states[0].zero_()
        else:
            state, cell = before[0].to(dtype), cell_states[0].copy_(before[1])
        # all views at once: a step is so small that indexing would be a good part of it
        state_of, output_of, cell_of = states.unbind(), outputs.unbind(), cell_states[1:].unbind()
        share = gates.new_empty(stacks, rows, 4 * cells, dtype=dtype)
        projected = states.new_empty(states.shape[1:])
        squashed = cell_states.new_empty(stacks, rows, cells)
        cell_clip, projection_clip = self.clips
        block = None
        for first, last in _blocks(steps, gates[0].numel()):
            if block is None or activations is not None or last - first != len(block):
                block = gates.new_empty(last - first, *gates.shape[1:], dtype=torch.float32)
            block.copy_(gates[first:last])
            block[..., 3 * cells :] *= 2
            if activations is not None:
                activations.append(block)
            parts = [part.unbind() for part in block.split(cells, dim=-1)]
            for t, gate, into, forget, out, candidate in zip(
                range(first, last), block.unbind(), *parts, strict=True
            ):
                if restarts[t]:
                    state, cell = state * keep[t].to(dtype), cell * keep[t]
                if dtype == torch.float32:
                    gate.baddbmm_(state, self.weight)
                else:
                    gate += torch.bmm(state, self.weight, out=share)
                gate.sigmoid_()
                candidate.mul_(2).sub_(1)
                cell = torch.mul(forget, cell, out=cell_of[t])
                cell.addcmul_(into, candidate).clamp_(-cell_clip, cell_clip)
                _tanh(cell, out=squashed)
                if dtype == torch.float32:
                    torch.mul(squashed, out, out=output_of[t])
                else:
                    output_of[t].copy_(squashed.mul_(out))
                torch.bmm(output_of[t], self.project, out=projected)
                state = torch.clamp(projected, -projection_clip, projection_clip, out=state_of[t])
        return states, cell_states, outputs


def _walk_back(
    grad_states: Tensor,
    keep: Tensor,
    restarts: list[bool],
    weight: Tensor,
    project: Tensor,
    states: Tensor,
    cell_states: Tensor,
    activations: list[Tensor],
    clips: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """The steps in reverse: what ``Walk`` was given and gave, and (T, S, B, P) the states' gradient.

    Returns:
        The gradients of the gates, (T, S, B, 4C), and of what the projection gave, before its clip,
        (T, S, B, P), both in the products' type.
    """
    steps, stacks, rows, width = states.shape
    cells, dtype = cell_states.shape[-1], weight.dtype
    cell_clip, projection_clip = clips
    grad_gates = _stacks_first(states, steps, stacks, rows, 4 * cells, dtype=dtype)
    grad_projected = _stacks_first(states, steps, stacks, rows, width, dtype=dtype)
    grad_gates_of, grad_projected_of = grad_gates.unbind(), grad_projected.unbind()
    back_weight, back_project = weight.transpose(1, 2), project.transpose(1, 2)
    # room for one step
    grad_gate = cell_states.new_empty(stacks, rows, 4 * cells)
    grad_gate_parts = grad_gate.unflatten(-1, (4, cells))
    grad_out_gate = grad_gate_parts[..., 2, :]
    from_gates, from_projected = weight.new_empty(stacks, rows, width), weight.new_empty(stacks, rows, cells)
    grad_output, grad_from_later = from_projected.float(), from_gates.float()
    grad_cell = torch.zeros_like(cell_states[0])
    wide = grad_cell.unsqueeze(-2)
    # and for one block
    longest = max(map(len, activations))
    factors = cell_states.new_empty(longest, stacks, rows, 4, cells)
    squashed, by_cell, passed = cell_states.new_empty(3, longest, stacks, rows, cells)
    grads, open_states = cell_states.new_empty(2, longest, stacks, rows, width)
    blocks = _blocks(steps, stacks * rows * 4 * cells)
    for block, (first, last) in zip(reversed(activations), reversed(blocks), strict=True):
        size = last - first
        into, forget, out, candidate = block.split(cells, dim=-1)
        # what a gate's gradient is to be multiplied with: by the gradient of the cell, or of the output
        before, after = cell_states[first:last], cell_states[first + 1 : last + 1]
        _tanh(after, out=squashed[:size])
        _sigmoid_backward(candidate, into, grad_input=factors[:size, ..., 0, :])
        _sigmoid_backward(before, forget, grad_input=factors[:size, ..., 1, :])
        _tanh_backward(into, candidate, grad_input=factors[:size, ..., 3, :])
        _sigmoid_backward(squashed[:size], out, grad_input=factors[:size, ..., 2, :])
        _tanh_backward(out, squashed[:size], grad_input=by_cell[:size])
        _clamp_backward(by_cell[:size], after, -cell_clip, cell_clip, grad_input=by_cell[:size])
        _clamp_backward(forget, before, -cell_clip, cell_clip, grad_input=passed[:size])
        torch.lt(states[first:last].abs(), projection_clip, out=open_states[:size])
        torch.mul(grad_states[first:last], open_states[:size], out=grads[:size])
        views = (x[:size].unbind() for x in (grads, open_states, by_cell, factors, passed))
        walked = list(zip(range(first, last), *views, strict=True))
        for t, grad, is_open, of_cell, of_gates, carried in reversed(walked):
            if t < steps - 1:
                grad.addcmul_(grad_from_later, is_open)
            grad_projected_of[t].copy_(grad)
            _product(grad_projected_of[t], back_project, from_projected, grad_output)
            grad_cell.addcmul_(grad_output, of_cell)
            if restarts[t]:  # the cell before counts for 0 here
                of_gates[..., 1, :] *= keep[t]
            torch.mul(of_gates, wide, out=grad_gate_parts)
            torch.mul(of_gates[..., 2, :], grad_output, out=grad_out_gate)
            grad_gates_of[t].copy_(grad_gate)
            if t:
                grad_cell.mul_(carried)
                _product(grad_gates_of[t], back_weight, from_gates, grad_from_later)
                if restarts[t]:
                    grad_cell *= keep[t]
                    grad_from_later *= keep[t]
    return grad_gates, grad_projected


def product_dtype(weight: Tensor) -> torch.dtype:
    """What the products with a (S, P, 4C) weight are taken in."""
    device = weight.device.type
    small = device == "cpu" and weight[0].numel() < SMALL_PRODUCT
    if small or not torch.is_autocast_enabled(device):
        return torch.float32
    return torch.get_autocast_dtype(device)


def _product(x: Tensor, weight: Tensor, product: Tensor, out: Tensor) -> None:
    """x W into ``out``, in 32 bits; ``product`` is room for it in the weight's type."""
    if weight.dtype == torch.float32:
        torch.bmm(x, weight, out=out)
    else:
        out.copy_(torch.bmm(x, weight, out=product))


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """tanh x = 2 σ(2x) - 1, which on a CPU takes half the time that tanh itself does."""
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _stacks_first(like: Tensor, steps: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Room for (T, S, B, N), with S first in memory."""
    return like.new_empty(shape[0], steps, *shape[1:], dtype=dtype).transpose(0, 1)


def _keep(starts: Tensor) -> Tensor:
    """(T, S, B, 1) what the states are multiplied with before each step."""
    return (~starts).float()[..., None]


def _restarts(starts: Tensor) -> list[bool]:
    """Whether any document starts at each step."""
    return starts.flatten(1).any(1).tolist()


def _blocks(steps: int, gates: int) -> list[tuple[int, int]]:
    """First and last step, the last excluded, of each block, where a step has so many ``gates``."""
    size = max(BLOCK // gates, 1)
    return [(first, min(first + size, steps)) for first in range(0, steps, size)]


def _over_steps(left: Tensor, right: Tensor) -> Tensor:
    """Sum over steps and rows of the outer products: (T, S, B, M) and (T, S, B, N) to (S, M, N)."""
    sums = left.new_empty(left.shape[1], left.shape[-1], right.shape[-1])
    # one product a stack: of a part of the steps, a batched one would first copy what it is given
    for stack, out in enumerate(sums):
        torch.mm(left[:, stack].flatten(0, 1).t(), right[:, stack].flatten(0, 1), out=out)
    return sums
