"""The loop that probes and whole models are trained in: early stopping, seeds, batches of like length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lmzoo import rng
from lmzoo.errors import LmzooError
from lmzoo.inference.engine import BATCH_TOKENS, by_length
from lmzoo.inference.sources import slow_progress
from lmzoo.tasks.goals import Goal
from lmzoo.tasks.schedule import rate_factor
from lmzoo.tasks.settings import Settings

_POOL = 16
"""Batches whose examples are sorted by length among themselves."""


class Learner(Protocol):
    """Something that learns a goal from examples."""

    goal: Goal

    @property
    def module(self) -> nn.Module:
        """What is trained, in whole or in part."""
        ...

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups, each with its peak rate under ``peak``."""
        ...

    def begin(self, epoch: int) -> None:
        """Told before each epoch, from 0."""
        ...

    def penalty(self) -> Tensor | float:
        """What is added to the loss of every step, whatever the examples."""
        ...

    def lengths(self, examples: np.ndarray) -> np.ndarray:
        """How long examples are, at least 1: those of like length share batches."""
        ...

    def logits(self, examples: np.ndarray) -> Tensor:
        """What the head says of some examples."""
        ...


@dataclass(frozen=True)
class Fitted:
    """What became of a training; the learner's module has the weights of the best epoch."""

    lr: float
    epochs: int
    """That were run."""
    best_epoch: int
    """From 1; the last where there was no part for stopping."""
    stop_score: float | None
    """On the part for stopping, in the best epoch; None without one, and where the score has no value."""


@dataclass(frozen=True)
class Bounds:
    """How long a training may take."""

    epochs: int
    patience: int | None = None


def fit(
    learner: Learner,
    train: range,
    stop: range,
    score: Callable[[list[Any]], float],
    settings: Settings,
    bounds: Bounds,
    *,
    seed: int,
    lr: float,
    what: str = "learning",
) -> Fitted:
    """Train, and keep the epoch that is best on the part for stopping.

    Args:
        learner: trained in place.
        train: numbers of the items to learn from.
        stop: numbers of the items to stop by; may be none, and then the last epoch is kept.
        score: of predictions for the items of ``stop``; more is better.
        settings: batch size, decay, schedule.
        bounds: how long.
        seed: of the order and of dropout.
        lr: peak rate.
        what: for the progress bar.

    Raises:
        LmzooError: there is nothing to learn from, or the loss is not finite.
    """
    examples = learner.goal.learned(train)
    if not len(examples):
        raise LmzooError(f"{what}: no item of the training part has anything to learn from")
    lengths = learner.lengths(examples)
    steps = -(-len(examples) // settings.batch_size)
    optimizer = torch.optim.AdamW(learner.groups(lr), lr=lr)
    kept: dict[str, Tensor] | None = None
    best, best_loss, best_epoch, epoch = -math.inf, math.inf, 0, 0
    device = next(learner.module.parameters()).device
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        slow_progress(what, steps * bounds.epochs) as advance,
    ):
        for epoch in range(1, bounds.epochs + 1):
            learner.module.train()
            learner.begin(epoch - 1)
            done = (epoch - 1) * steps
            for step, chosen in enumerate(
                batches(lengths, settings.batch_size, rng.key(seed, "order", epoch))
            ):
                rng.seed_dropout(seed, done + step, 0)
                factor = rate_factor(
                    settings.recipe, (done + step + 0.5) / (steps * bounds.epochs), settings.warmup
                )
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                _step(learner, optimizer, examples[chosen], settings, f"{what}, epoch {epoch}")
                advance(1)
            if not len(stop):
                best_epoch = epoch
                continue
            found = score(predict(learner, stop))
            found = found if math.isfinite(found) else -math.inf  # a correlation of equal predictions
            if found >= best and ((loss := _stop_loss(learner, stop)) < best_loss or found > best):
                best, best_loss, best_epoch = found, loss, epoch
                kept = {name: tensor.detach().clone() for name, tensor in learner.module.state_dict().items()}
            elif bounds.patience is not None and epoch - best_epoch >= bounds.patience:
                break
    if kept is not None:
        learner.module.load_state_dict(kept)
    learner.module.eval()
    return Fitted(lr, epoch, best_epoch, best if math.isfinite(best) else None)


def _step(
    learner: Learner, optimizer: torch.optim.Optimizer, examples: np.ndarray, settings: Settings, where: str
) -> None:
    loss = learner.goal.loss(learner.logits(examples), examples)
    if not math.isfinite(float(loss.detach())):
        raise LmzooError(f"{where}: the loss is not finite; give a lower lr=, or precision=fp32")
    loss = loss + learner.penalty()
    optimizer.zero_grad()
    if not loss.requires_grad:  # a batch in which nothing depends on the weights: sentences without a word
        return
    loss.backward()
    if settings.gradient_clip:
        nn.utils.clip_grad_norm_(learner.module.parameters(), settings.gradient_clip)
    optimizer.step()


def batches(lengths: np.ndarray, size: int, key: int) -> Iterator[np.ndarray]:
    """Places 0 to n - 1 in an order that ``key`` draws, in batches of examples of like length.

    Args:
        lengths: (n,) of the examples.
        size: of a batch; one may be smaller.
        key: of the draw.
    """
    count = len(lengths)
    order = rng.permuted(key, count, np.arange(count))
    made = []
    for begin in range(0, count, size * _POOL):
        pool = order[begin : begin + size * _POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        made += [pool[i : i + size] for i in range(0, len(pool), size)]
    for number in rng.permuted(rng.key(key, "batches"), len(made), np.arange(len(made))):
        yield made[number]


def _groups(learner: Learner, examples: np.ndarray) -> Iterator[np.ndarray]:
    for group in by_length(learner.lengths(examples).tolist(), BATCH_TOKENS):
        yield examples[np.sort(group)]


@torch.no_grad()
def predict(learner: Learner, part: range) -> list[Any]:
    """What the learner says of each item of a part, in order."""
    learner.module.eval()
    told: dict[int, Any] = {}
    for group in _groups(learner, learner.goal.judged(part)):
        found = learner.goal.told(learner.logits(group), group)
        told.update(zip(group.tolist(), found, strict=True))
    return learner.goal.predictions(part, told)


@torch.no_grad()
def _stop_loss(learner: Learner, part: range) -> float:
    """Mean loss of what can be learned from: it tells epochs of one score apart."""
    learner.module.eval()
    total = count = 0.0
    for group in _groups(learner, learner.goal.learned(part)):
        total += float(learner.goal.loss(learner.logits(group), group)) * len(group)
        count += len(group)
    return total / count if count else 0.0
