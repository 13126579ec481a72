"""AdamW with decay groups, and learning rates as functions of the budget's spent share."""

from __future__ import annotations

import math

import torch
from torch import nn

from lmzoo.settings import OptimizerConfig, ScheduleConfig


def build_optimizer(
    module: nn.Module, config: OptimizerConfig, *, fused: bool = True
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); matrices decay, norms and biases do not."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.dim() >= 2]
    others = [p for p in module.parameters() if p.requires_grad and p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=fused,
    )


def learning_rate_factor(config: ScheduleConfig, spent: float) -> float:
    """The learning rate as a share of its peak.

    Args:
        config: shape of the schedule.
        spent: share of the budget that is spent, 0 to 1; so the schedule ends with the budget,
            whatever the budget counts.

    Returns:
        0 to 1.
    """
    spent = min(max(spent, 0.0), 1.0)
    if spent < config.warmup:
        return spent / config.warmup
    rest = (spent - config.warmup) / max(1 - config.warmup, 1e-12)
    falling = 1 - config.final
    match config.name:
        case "linear":
            return 1 - falling * rest
        case "cosine":
            return config.final + falling * (1 + math.cos(math.pi * rest)) / 2
        case "inverse_sqrt":  # Vaswani et al. 2017, equation 3, in shares of the budget
            return math.sqrt(config.warmup / spent)
        case "constant":
            return 1.0
        case "wsd":  # warm-up, stable, decay: Hu et al. 2024 (MiniCPM), section 4.1
            begin = 1 - config.decay
            return 1.0 if spent <= begin else 1 - falling * (spent - begin) / config.decay
    raise ValueError(f"no schedule is called {config.name}")
