"""What a run cost, and how much of its budget is spent."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lmzoo.settings import BudgetConfig


@dataclass
class Ledger:
    """Sums over all ranks since the first step; part of every checkpoint."""

    steps: int = 0
    samples: int = 0
    """Rows seen."""
    tokens_seen: int = 0
    """Tokens read by the backbone, padding not counted."""
    predicted_tokens: int = 0
    """Token predictions that were paid for with a loss; both directions of a biLM count."""
    flops: float = 0.0
    """Floating-point operations of forward and backward passes, heads and padding included: three
    times the forward pass (Kaplan et al. 2020, section 2.1). What need not be computed in a Transformer's
    last layer (see ``Backbone.forward``) is not in it, though compiled code computes it all the same. A
    char-CNN is counted once a distinct token of a row, however the rows are put in micro-batches."""
    seconds: float = 0.0
    """Wall-clock time of the training steps; validation is not counted."""
    rows_an_epoch: int = 0
    skipped_steps: int = 0
    """Steps left out because their loss or gradient was not finite: paid for, and nothing learned."""

    def spent(self, budget: BudgetConfig) -> float:
        """Share of the budget that is spent; 1 or more when it is used up."""
        counted = {
            "steps": self.steps,
            "tokens": self.tokens_seen,
            "epochs": self.samples / max(self.rows_an_epoch, 1),
            "minutes": self.seconds / 60,
            "flops": self.flops,
            "predicted_tokens": self.predicted_tokens,
        }
        for name, amount in counted.items():
            limit = getattr(budget, name)
            if limit is not None:
                return amount / limit
        raise ValueError("a budget needs one limit")

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_seen / self.seconds if self.seconds else 0.0

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        # getrusage would tell a parent's peak where that was larger: it is handed down at the start
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
