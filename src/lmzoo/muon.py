"""Muon: momentum whose matrices are made orthogonal before they are added (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that drives singular values towards 1 (Jordan et al. 2024)."""
ITERATIONS = 5
ADAM_SIZE = 0.2
"""Root mean square of an entry of AdamW's update in practice; Muon's is given the same, so that one rate and
one weight decay can serve both (Liu et al. 2025, section 2.2, equation 4)."""


class Muon(torch.optim.AdamW):
    """Muon for some matrices, AdamW for all other parameters, under one learning rate.

    Args:
        matrices: (parameter, parts) of each (N, M) weight that Muon moves; one that holds several matrices on
            top of each other, as queries, keys and values, has so many parts, each made orthogonal by itself.
        others: AdamW's parameter groups.
        lr: learning rate of both.
        weight_decay: of the matrices.
        momentum: of the matrices' gradients (Nesterov's).
        dtype: what the products are taken in.
        scale: the matrices' rate as a multiple of ``lr``; kept in their group, for schedules.
        adamw: what else AdamW is given.
    """

    def __init__(
        self,
        matrices: Iterable[tuple[nn.Parameter, int]],
        others: list[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
        scale: float = 1.0,
        **adamw: Any,
    ) -> None:
        weights, parts = zip(*matrices, strict=True)
        moved = {
            "params": list(weights),
            "parts": list(parts),
            "scale": scale,
            "lr": lr * scale,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__([moved, *others], lr=lr, **adamw)
        self.dtype = dtype

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of both; the matrices' gradients are used up by it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "parts" in group:
                self._move(group)
        super().step()  # it passes over what has no gradient any more
        return loss

    @torch.no_grad()
    def _move(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for weight, parts in zip(group["params"], group["parts"], strict=True):
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros(())  # AdamW looks for it in all that is restored
                state["momentum"] = torch.zeros_like(weight)
            state["step"] += 1
            mean = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            ahead = weight.grad.lerp_(mean, group["momentum"])
            weight.grad = None
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            for matrix, target in zip(ahead.chunk(parts), weight.chunk(parts), strict=True):
                if len(matrix) > matrix.shape[1]:
                    matrix, target = matrix.t(), target.t()
                by_shape.setdefault(tuple(matrix.shape), []).append((matrix, target))
        for shape, pairs in by_shape.items():
            updates = orthogonal(torch.stack([matrix for matrix, _ in pairs]).to(self.dtype))
            size = ADAM_SIZE * math.sqrt(max(shape))
            for update, (_, target) in zip(updates, pairs, strict=True):
                target.add_(update, alpha=-group["lr"] * size)


def orthogonal(matrices: Tensor) -> Tensor:
    """(K, N, M), N ≤ M, with its singular values brought near 1 (0.7 to 1.2), but for those near 0."""
    a, b, c = COEFFICIENTS
    x = matrices / matrices.float().norm(dim=(1, 2), keepdim=True).clamp_min(1e-7).to(matrices.dtype)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.transpose(1, 2))
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
