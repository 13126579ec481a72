"""A step whose loss or gradient is not finite: its batch is kept, and it is left out or ends the run."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lmzoo import rng
from lmzoo.disk import whole_file
from lmzoo.errors import LmzooError
from lmzoo.ledger import Ledger
from lmzoo.progress import say
from lmzoo.types import Batch

FOLDER = "nonfinite"
"""Of a run folder."""


class NonFinite:
    """How many steps of a run may be left out, and what is kept of them.

    Args:
        allowed: steps.
        seed: the run's.
    """

    def __init__(self, allowed: int, seed: int) -> None:
        self.allowed = allowed
        self.seed = seed
        self.folder: Path | None = None
        """Where batches are kept; without one they are not."""
        self.under_way: tuple[Batch, Tensor] | None = None
        """This rank's rows of the step, and (P,) the sums of its losses, part by part, in nats."""

    def leave_out(
        self, module: L.LightningModule, ledger: Ledger, losses: dict[str, float], loss: float, norm: float
    ) -> None:
        """Take all gradients away, so that the optimizer changes nothing, not even its own state.

        By now all ranks have the same loss and the same gradients, so all do the same.

        Args:
            module: whose gradients.
            ledger: counts the steps left out.
            losses: of each part, over all ranks, in nats a prediction.
            loss: the whole.
            norm: of the gradient.

        Raises:
            LmzooError: more steps than are allowed.
        """
        told = f"step {ledger.steps}: the loss is {loss:.4g} and the gradient's norm {norm:.4g}, which is "
        told += "not finite" + self._keep(ledger.steps, module.global_rank, losses, norm)
        if ledger.skipped_steps >= self.allowed:
            raise LmzooError(
                f"{told}; the weights stay as they were before it. Lower optimizer.lr, lengthen "
                "schedule.warmup, set hardware.precision=fp32, or leave such steps out with "
                f"skip_nonfinite={ledger.skipped_steps + 1}"
            )
        ledger.skipped_steps += 1
        module.zero_grad(set_to_none=True)
        if module.global_rank == 0:
            say(f"{told}; left out ({ledger.skipped_steps} of skip_nonfinite={self.allowed})")

    def _keep(self, step: int, rank: int, losses: dict[str, float], norm: float) -> str:
        """Write what led to it; gives what to say of that."""
        if self.folder is None or self.under_way is None:
            return ""
        batch, sums = self.under_way
        rng.seed_dropout(self.seed, step - 1, rank)
        tensors = {entry.name: getattr(batch, entry.name) for entry in fields(batch) if entry.name != "whole"}
        content = {
            "step": step,
            "rank": rank,
            "seed": self.seed,
            "losses": losses,
            "own_totals": dict(zip(losses, sums.tolist(), strict=False)),
            "gradient_norm": norm,
            "rng": torch.get_rng_state(),
            "batch": {name: tensor.cpu() for name, tensor in tensors.items() if tensor is not None},
        }
        path = self.folder / (f"step-{step}-rank-{rank}.pt" if rank else f"step-{step}.pt")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # it must not hide what it was to be kept for
            return f" (its batch could not be kept: {error})"
        return f" (its batch is kept in {path})"


def read_batch(path: Path) -> tuple[Batch, dict[str, Any]]:
    """The rows of one rank in a step that was kept, and what else the file holds.

    That is ``step`` (from 1), ``rank``, ``seed``, ``losses`` (over all ranks, in nats a prediction),
    ``own_totals`` (sums over these rows, in nats), ``gradient_norm``, and ``rng``, the state from which its
    dropout was drawn: all that it takes to repeat the step on the weights that it met.
    """
    content = torch.load(path, weights_only=True)
    return Batch(**content.pop("batch")), content
