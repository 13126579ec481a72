"""Pairs of models that compute the same: one of ours, and what people use instead.

Both of a contest start from the same weights, read the same batches of real text, and are optimised by fused
AdamW behind a clipped gradient. ``check_agreement`` holds their losses and gradients against each other in 32
bits without dropout. What differs nevertheless:

- ours corrupts its batch and finds its targets inside the step, as a training step here does; the others are
  given both ready-made, so that their collators cost nothing (to their advantage);
- rows lie in one document and are full, so that the others need no mask (pairs may end early, and have one);
  ours, too, is a little quicker on such rows than on packed ones, for which it adds a bias a row;
- ModernBERT drops inside its feed-forward layer, on its inner width, where ours drops behind it, on the
  model's: with dropout it draws about 2.7 times as many numbers there (``bert`` and ``gpt`` alone; the lines
  at dropout 0 are free of this);
- under autocast ours runs its backward pass inside it, as Lightning does for a whole training step, and the
  others run it outside, as ``transformers.Trainer`` does (no difference in time was seen);
- one count of operations stands for both, that of our ledger's formulas: what the losses need, so neither the
  head nor, in the last layer, what stands behind the attention where nothing is predicted.

Against ELMo stands ``benchmarks.plain_bilm``, which is what one writes in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contests import Setting
from benchmarks.plain_bilm import plain_bilm
from lmzoo import rng
from lmzoo.hub.forms import native_form, write_config
from lmzoo.hub.native import to_native
from lmzoo.modules import MODULES, LanguageModelModule
from lmzoo.nn.config import TransformerConfig
from lmzoo.settings import TrainConfig
from lmzoo.types import Batch, Context, SpecialTokens

TOLERANCE = 1e-5
"""Largest relative difference of two losses that are called the same, in 32 bits; ten times that for the
norms of their gradients."""
_IGNORED = -100


class Disagreement(Exception):
    """Two contestants do not compute the same."""


# ---------------------------------------------------------------------------------- contestants


class Contestant:
    """A model with its batches and its optimizer, which trains step after step."""

    name: str
    module: nn.Module
    backward_under_autocast: bool

    def __init__(
        self, feeds: Sequence[Any], optimizer: torch.optim.Optimizer, precision: str, compiled: bool
    ) -> None:
        self.feeds = feeds
        self.optimizer = optimizer
        self.precision = precision
        self.compiled = compiled
        self.steps = 0

    def _compute(self, feed: Any) -> Tensor:
        raise NotImplementedError

    def _autocast(self) -> torch.autocast:
        device = next(self.module.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")

    def loss(self, number: int) -> Tensor:
        """() the loss of a batch, with gradients, as training has it; batches are counted round."""
        with self._autocast():
            return self._compute(self.feeds[number % len(self.feeds)])

    def step(self) -> None:
        """A whole training step on the next batch."""
        rng.seed_dropout(1, self.steps, 0)
        if self.backward_under_autocast:
            with self._autocast():
                self.loss(self.steps).backward()
        else:
            self.loss(self.steps).backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1

    def exact(self, number: int) -> tuple[float, float]:
        """Loss of a batch and norm of its gradient, in 32 bits and without dropout."""
        precision, self.precision = self.precision, "fp32"
        self.module.eval()
        try:
            loss = self.loss(number)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), float("inf"))
            return loss.item(), norm.item()
        finally:
            self.optimizer.zero_grad()
            self.module.train()
            self.precision = precision

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)


class Ours(Contestant):
    """A module of ours, through the same calls as in ``LanguageModelModule.training_step``."""

    name = "lmzoo"
    module: LanguageModelModule
    backward_under_autocast = True

    def __init__(
        self,
        setting: Setting,
        batches: Sequence[Batch],
        *,
        precision: str = "bf16",
        compiled: bool = False,
        device: str = "cpu",
    ) -> None:
        self.module = build_module(setting).to(device)
        if compiled:  # as hardware.compile does
            self.module.backbone.compile()
        feeds = [batch.to(device) for batch in batches]
        super().__init__(feeds, self.module.configure_optimizers(), precision, compiled)

    def _compute(self, feed: Batch) -> Tensor:
        task = self.module.prepare(feed)
        counts, weights = task.counts(), self.module.objective.weights
        terms = self.module.terms(task)
        return torch.stack([weights[name] * term.total / counts[name] for name, term in terms.items()]).sum()


class Theirs(Contestant):
    """What ours is held against, with the weights of a module of ours."""

    backward_under_autocast = False

    def __init__(
        self,
        setting: Setting,
        batches: Sequence[Batch],
        like: LanguageModelModule,
        *,
        precision: str = "bf16",
        compiled: bool = False,
        device: str = "cpu",
    ) -> None:
        """
        Args:
            setting: of ``like``.
            batches: what ours is given.
            like: whose weights it starts from, and whose targets it is given.
            precision: `bf16` (autocast) or `fp32`.
            compiled: whether the whole model goes through ``torch.compile``.
            device: where.
        """
        self.name = setting.rules.other
        if setting.contest == "elmo":
            module: nn.Module = plain_bilm(setting.config.model, setting.vocab_size, like.state_dict())
        else:
            module = transformers_model(setting.config, like.backbone.context, setting.special, like)
            assert isinstance(module, transformers_class(setting))
        self.module = module.to(device).train()
        if compiled:
            self.module.compile()
        feeds = [_to(_collated(setting, like, batch), device) for batch in batches]
        chosen = setting.config.optimizer
        weights = [p for p in self.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in weights if p.dim() > 1], "weight_decay": chosen.weight_decay},
                {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=chosen.lr,
            betas=(chosen.beta1, chosen.beta2),
            fused=True,
        )
        super().__init__(feeds, optimizer, precision, compiled)

    def _compute(self, feed: dict[str, Any]) -> Tensor:
        return self.module(**feed)["loss"]


def build_module(setting: Setting) -> LanguageModelModule:
    """Ours, in training mode, with drawn weights; norms and biases too, so that a wrong one shows."""
    config = setting.config
    module = MODULES[setting.rules.model](
        config.objective,
        model=config.model,
        size=config.size,
        special=setting.special,
        pairs=setting.rules.view == "pairs",
        seq_len=setting.seq_len,
        optimizer=config.optimizer,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.train()


def transformers_class(setting: Setting) -> Any:
    """The class that stands against ours. Raises ImportError where transformers is not installed."""
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, setting.rules.other.split()[-1])


def transformers_model(
    config: TrainConfig, context: Context, special: SpecialTokens, like: LanguageModelModule | None = None
) -> nn.Module:
    """The model of transformers as which one of ours is exported, newly drawn or with the weights of one.

    Raises:
        ValueError: there is no such class.
    """
    import transformers

    model, objective = config.model, config.objective
    form, reason = native_form(model, objective, context)
    if form is None:
        raise ValueError(f"transformers has no such model: {reason}")
    assert isinstance(model, TransformerConfig)
    keys = write_config(form, model, objective.name, config.seq_len, special)
    described = transformers.AutoConfig.for_model(keys.pop("model_type"), **keys)
    made = getattr(transformers, form.classes[objective.name])(described)
    if like is not None:
        weights = to_native(form.model_type, model, objective.name, like.state_dict())
        unknown = made.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown, unknown
        made.tie_weights()  # whatever is missing after that, holding the losses against each other finds
    return made


def _collated(setting: Setting, like: LanguageModelModule, batch: Batch) -> dict[str, Any]:
    """Inputs and labels as a collator gives them, with the very tokens that ours predicts."""
    if setting.contest == "elmo":
        return {"tokens": batch.tokens}
    if setting.rules.objective == "clm":
        return {"input_ids": batch.tokens, "labels": batch.tokens, "use_cache": False}
    task = like.prepare(batch)
    labels = torch.full_like(batch.tokens, _IGNORED).flatten()
    labels[task.predictions["mlm"].places] = task.predictions["mlm"].targets
    feed = {"input_ids": task.batch.tokens, "labels": labels.view_as(batch.tokens)}
    if setting.rules.view == "pairs":
        assert batch.segments is not None and batch.is_random is not None  # noqa: PT018
        feed |= {"token_type_ids": batch.segments, "next_sentence_label": batch.is_random}
        feed["attention_mask"] = (batch.documents >= 0).long()
    return feed


def _to(feed: dict[str, Any], device: str) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in feed.items()}


# ---------------------------------------------------------------------------------- what holds for both


def check_agreement(ours: Contestant, theirs: Contestant, batches: int = 2) -> float:
    """Hold losses and gradients' norms against each other, in 32 bits and without dropout.

    Returns:
        the largest relative difference of two losses.

    Raises:
        Disagreement: a loss or the norm of a gradient differs by more than ``TOLERANCE`` allows.
    """
    largest = 0.0
    for number in range(batches):
        (one, our_norm), (other, their_norm) = ours.exact(number), theirs.exact(number)
        largest = max(largest, abs(one - other) / abs(other))
        off = abs(our_norm - their_norm) / their_norm
        if not (largest <= TOLERANCE and off <= 10 * TOLERANCE):  # NaN is no agreement either
            raise Disagreement(
                f"{ours.name} and {theirs.name} do not compute the same: losses {one:.6f} and {other:.6f}, "
                f"norms of the gradient {our_norm:.6f} and {their_norm:.6f}"
            )
    return largest


def step_flops(module: LanguageModelModule, batches: Sequence[Batch]) -> tuple[float, float]:
    """Floating-point operations of a step, by the formulas of our ledger; the batches' mean.

    Returns:
        the useful ones, and how many of them ours spares because nothing is predicted from their outcome.
    """
    total, spared = 0.0, 0.0
    for batch in batches:
        rows, length = batch.tokens.shape
        task = module.prepare(batch)
        heads = module.objective.flops(task.counts(), rows)
        total += 3 * (rows * length * module.backbone.flops_per_token(length) + heads)
        wanted = rows * length if task.wanted is None else len(task.wanted)
        spared += 3 * (rows * length - wanted) * module.backbone.flops_spared()
    return total / len(batches), spared / len(batches)


def step_tokens(batches: Sequence[Batch]) -> float:
    """Tokens of a step, padding not counted; the batches' mean."""
    return float(np.mean([int(batch.num_tokens()) for batch in batches]))
