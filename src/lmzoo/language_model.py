"""The LightningModule of every model: call the backbone, call the objective, optimise, log. No mathematics.

One Lightning batch is one optimizer step: the module splits it into micro-batches itself, because the
losses are divided by the counts of the whole global batch, which must be known before the first backward
pass.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

import lightning as L
import torch
import torch.distributed
from torch import Tensor

from lmzoo import rng, signals
from lmzoo.backbone import Backbone
from lmzoo.data.ramp import PART
from lmzoo.ledger import Ledger
from lmzoo.nonfinite import NonFinite
from lmzoo.objectives.base import Objective, Score, Scores, Task, summed
from lmzoo.optim import build_optimizer, clip_gradients, learning_rate_factor
from lmzoo.progress import say
from lmzoo.settings import BudgetConfig, OptimizerConfig, ScheduleConfig
from lmzoo.sharded import shard, unsynchronised
from lmzoo.types import Batch, LossTerm

VALIDATION_KEY = rng.key("validation")
"""Never the run's seed: every run predicts the same positions."""


class LanguageModelModule(L.LightningModule):
    """Owns the steps: micro-batches, global counts, the optimizer, the ledger, validation's sums.

    Logged every ``log_every`` steps: ``train/loss`` and its parts in nats a prediction (``train/loss_smoothed``,
    ``…_sampled`` or ``…_adaptive`` where it is not the cross-entropy of one softmax over the whole vocabulary),
    ``train/lr``, ``train/gradient_norm``, ``train/tokens_per_second``; and after each validation,
    ``valid/…`` (or ``test/…``) with the objective's own figures.

    Raises (from ``fit``):
        LmzooError: a loss or gradient is not finite, more often than ``skip_nonfinite``.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        *,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
        budget: BudgetConfig | None = None,
        seed: int = 1,
        micro_batch: int | None = None,
        log_every: int = 10,
        skip_nonfinite: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.backbone = backbone
        self.objective = objective
        self.optimizer_config = optimizer or OptimizerConfig()
        self.schedule_config = schedule or ScheduleConfig()
        self.budget = budget or BudgetConfig(steps=1000)
        self.seed = seed
        self.micro_batch = micro_batch
        self.log_every = log_every
        self.nonfinite = NonFinite(skip_nonfinite, seed)
        self.stop_asked = False
        """Whether a signal had asked any rank to stop when the latest step's sums were taken."""
        self.ledger = Ledger()
        self.last_loss: float | None = None
        self.last_parts: dict[str, float] = {}
        """Losses of the latest step's parts, over all ranks, in nats a prediction."""
        self.last_weights: dict[str, float] = {}
        """How they add up to its loss."""
        self.gradient_norm: float = 0.0
        self.metrics: dict[str, float | None] = {}
        """Figures of the latest validation."""
        self._scores = Scores()
        self._warned = False
        self._mark = time.perf_counter()

    # -- training

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # only ShardedStrategy has made one
            halved = self.trainer.precision_plugin.precision == "bf16-mixed"
            shard(self, self.device_mesh["data_parallel"], halved=halved)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # a fused step takes the loss scale of fp16 off by itself, too late for clipping
        scaled = self._trainer is not None and self.trainer.precision_plugin.precision == "16-mixed"
        halved = self._trainer is not None and self.trainer.precision_plugin.precision == "bf16-mixed"
        dtype = torch.bfloat16 if halved else torch.float32
        return build_optimizer(self, self.optimizer_config, fused=not scaled, dtype=dtype)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return min(self.ledger.spent(self.budget), 1.0)

    def prepare(self, batch: Batch) -> Task:
        """What is fed and asked in training; see ``Objective.prepare``."""
        key = rng.key(self.seed, "corrupt")
        return self.objective.prepare(batch, key, training=True, spent=self.progress)

    def terms(self, task: Task) -> dict[str, LossTerm]:
        """The loss of a task, part by part, with gradients."""
        task = self.objective.draft(task, self.backbone.embedding)
        return self.objective.loss(self.backbone(task.batch, wanted=task.wanted), task)

    def totals(self, task: Task) -> dict[str, Tensor]:
        """The sums of ``terms``; a name of its own, and tensors alone, for FSDP's hooks."""
        return {name: term.total for name, term in self.terms(task).items()}

    @torch.no_grad()
    def measured(self, task: Task) -> tuple[dict[str, LossTerm], dict[str, Tensor]]:
        """The loss of a task with right first guesses, and the objective's tallies, without gradients."""
        task = self.objective.draft(task, self.backbone.embedding)
        scores = self.objective.scores(self.backbone(task.batch, wanted=task.wanted), task)
        return scores, self.objective.tallies(task)

    def forward(self, batch: Batch) -> dict[str, LossTerm]:
        """Corrupt, encode, predict: what a parallel strategy wraps."""
        return self.terms(self.prepare(batch))

    def on_train_start(self) -> None:
        self.ledger.rows_an_epoch = self._rows_an_epoch()
        self._mark = time.perf_counter()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        rng.seed_dropout(self.seed, self.ledger.steps, self.global_rank)
        rows = self.micro_batch or len(batch)
        tasks = [self.prepare(part) for part in batch.split(rows)]
        counts = self._global_counts(batch, tasks)
        self.last_weights = self.objective.weights_for(counts)
        before = self.progress
        self._account(batch, counts)
        optimizer = self.optimizers()
        # the middle of the step's share of the budget: neither the first step nor the last is void
        factor = learning_rate_factor(self.schedule_config, (before + self.progress) / 2)
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = self.optimizer_config.lr * factor * group.get("scale", 1.0)
        optimizer.zero_grad()  # type: ignore[union-attr]
        sums = torch.zeros(len(self.objective.weights) + 2, dtype=torch.float64, device=self.device)
        for number, task in enumerate(tasks):
            last = number == len(tasks) - 1
            with contextlib.nullcontext() if last else self._no_sync():
                totals = self.totals(task)
                self.manual_backward(self._divided(totals, counts))
            for place, name in enumerate(self.objective.weights):
                sums[place] += totals[name].detach()
        now = time.perf_counter()
        sums[-2] = bool(signals.received())
        sums[-1] = (now - self._mark) / self.trainer.world_size
        self._mark = now
        self.nonfinite.under_way = batch, sums.clone()
        *sums, stops, seconds = self._over_ranks(sums).tolist()
        self.stop_asked = stops > 0
        self.ledger.seconds += seconds
        parts = zip(self.objective.weights, sums, strict=True)
        self.last_parts = {name: total / counts[name] for name, total in parts if counts[name]}
        optimizer.step()  # type: ignore[union-attr]
        self.nonfinite.under_way = None
        self._after_step(factor)

    def _divided(self, totals: dict[str, Tensor], counts: dict[str, float]) -> Tensor:
        """The loss to differentiate: sums over the global counts, and against the ranks' averaging."""
        parts = [self.last_weights[n] * total / max(counts[n], 1) for n, total in totals.items()]
        return torch.stack(parts).sum() * self.trainer.world_size

    def _global_counts(self, batch: Batch, tasks: list[Task]) -> dict[str, float]:
        """Predictions of each part, and tokens, over all micro-batches and ranks."""
        counts: dict[str, float] = dict.fromkeys(self.objective.weights, 0)
        for task in tasks:
            for name, count in task.counts().items():
                counts[name] += count
        counts["tokens"] = int(batch.num_tokens())
        # the ranks' rows may be padded to different lengths, and all ledgers must agree
        counts["places"] = batch.tokens.numel()
        length = batch.tokens.shape[1]
        each = self.backbone.flops_per_token(length) + self.objective.flops_per_token(length)
        counts["flops"] = counts["places"] * each
        spared = self.backbone.flops_spared()
        counts["wanted"] = sum(_wanted(task) for task in tasks) if spared else 0
        distinct = int(batch.num_distinct_by_row()) if self.backbone.flops_per_word() else 0
        counts["words"] = distinct * self.objective.readings
        packed = torch.tensor(list(counts.values()), dtype=torch.float64, device=self.device)
        return dict(zip(counts, self._over_ranks(packed).tolist(), strict=True))

    def _over_ranks(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _account(self, batch: Batch, counts: dict[str, float]) -> None:
        rows = len(batch) * self.trainer.world_size
        whole = int((batch.samples < PART).sum()) * self.trainer.world_size  # a folded row counts once
        ledger = self.ledger
        ledger.steps += 1
        ledger.samples += whole
        ledger.tokens_seen += int(counts["tokens"])
        ledger.predicted_tokens += int(sum(counts[name] for name in self.objective.token_parts))
        spared = self.backbone.flops_spared()
        forward = int(counts["flops"]) - int(counts["places"] - counts["wanted"]) * spared
        forward += int(counts["words"]) * self.backbone.flops_per_word()
        named = {name: int(counts[name]) for name in self.objective.weights}
        ledger.flops += 3 * (forward + self.objective.flops(named, rows))
        ledger.flops += self.objective.flops_without_gradient(named)

    def _no_sync(self) -> contextlib.AbstractContextManager[Any]:
        wrapped = self.trainer.strategy.model
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return unsynchronised(self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip; by now Lightning has taken a loss scale off the gradients."""
        limit = self.optimizer_config.gradient_clip or float("inf")
        self.gradient_norm = clip_gradients(self.parameters(), limit)
        loss = sum(self.last_weights[name] * value for name, value in self.last_parts.items())
        scaled = self.trainer.precision_plugin.precision == "16-mixed"  # its scaler skips such a step
        self.last_loss = loss
        if not math.isfinite(loss if scaled else loss + self.gradient_norm):
            self.nonfinite.leave_out(self, self.ledger, self.last_parts, loss, self.gradient_norm)

    def _after_step(self, factor: float) -> None:
        if self.progress >= 1:
            self.trainer.should_stop = True
        if self.ledger.steps % self.log_every and not self.trainer.should_stop:
            return
        kind = self.objective.token_loss.name  # empty for the cross-entropy of one softmax
        end = f"_{kind}" if kind else ""
        figures = {f"train/{name}_loss{end}": value for name, value in self.last_parts.items()}
        figures |= {
            f"train/loss{end}": self.last_loss or 0.0,
            "train/lr": self.optimizer_config.lr * factor,
            "train/gradient_norm": self.gradient_norm,
            "train/tokens_per_second": self.ledger.tokens_per_second,
            "train/tokens_seen": self.ledger.tokens_seen,
        }
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.ledger.steps)

    def _rows_an_epoch(self) -> int:
        view = getattr(getattr(self.trainer, "datamodule", None), "train_view", None)
        return len(view) if view is not None else 0

    # -- validation and test

    def _start_scores(self) -> None:
        self._scores = Scores({name: Score() for name in self.objective.weights})

    def _score(self, batch: Batch) -> None:
        task = self.objective.prepare(batch, VALIDATION_KEY, training=False)
        terms, tallies = self.measured(task)
        for name, term in terms.items():
            part = self._scores.parts[name]
            part.nats += float(term.total)
            part.count += float(term.count)
            part.correct += float(term.correct) if term.correct is not None else 0.0
        for name, value in tallies.items():
            self._scores.tallies[name] = self._scores.tallies.get(name, 0.0) + float(value)

    def _finish_scores(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self._scores)
            self._scores = summed(gathered)
        self.metrics = self.objective.metrics(self._scores)
        if not self._warned and (line := self.objective.warning(self.metrics, self.progress)):
            self._warned = True
            if self.trainer.is_global_zero:
                say(line)
        known = {f"{stage}/{name}": value for name, value in self.metrics.items() if value is not None}
        for logger in self.loggers:
            logger.log_metrics(known, step=self.ledger.steps)
        if known:
            self.log(f"{stage}/loss", known[f"{stage}/loss"], logger=False, rank_zero_only=True)
        self._mark = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        self._start_scores()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish_scores("valid")

    def on_test_epoch_start(self) -> None:
        self._start_scores()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        self._finish_scores("test")

    # -- checkpoints

    def leave_out(self, seconds: float) -> None:
        """Do not count what has just been done as training, such as writing a file."""
        self._mark += seconds

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ledger"] = self.ledger.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ledger.load_state_dict(checkpoint["ledger"])


def _wanted(task: Task) -> int:
    """Places whose last states are asked for."""
    return task.batch.tokens.numel() if task.wanted is None else len(task.wanted)
