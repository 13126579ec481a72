"""How long runs will take on this machine: a few steps of each are timed first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from lmzoo.assembly import PRECISIONS, build_datamodule, build_module, precision_of, tell_words
from lmzoo.callbacks import quieten
from lmzoo.data.prepare import default_cache_dir, prepare
from lmzoo.data.subset import trained_on
from lmzoo.errors import LmzooError
from lmzoo.ledger import Ledger
from lmzoo.settings import BudgetConfig, TrainConfig
from lmzoo.yardsticks.registry import named

STEPS, FIRST = 8, 2
"""Steps that are made, and those of them that are not timed: they warm up."""
SECONDS = 6.0
"""After so long no further step is made."""
START = 5.0
"""Seconds of a run beside its steps: W&B, the last validation's start, the export."""
YARDSTICKS = {
    "bits_per_byte": 0.1e6,
    "pseudo_likelihood": 0.6e6,
    "corpus_pairs": 0.4e6,
    "contextuality": 0.1e6,
    "length_extrapolation": 0.4e6,
}
"""What a yardstick takes of a model it has a meaning for, in tokens of its training; a rough figure."""
FORWARD = 0.4
"""Of a token's training, what a token of validation takes."""


@dataclass(frozen=True)
class Pace:
    """What a step costs."""

    seconds: float
    amounts: dict[str, float]
    """By the name of the budget that counts them; an epoch in rows."""
    rows_an_epoch: int
    valid_tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.amounts["tokens"] / self.seconds

    def seconds_of(self, config: TrainConfig) -> float:
        """A whole run of ``config``, validation and yardsticks included."""
        ((name, limit),) = [(n, v) for n, v in vars(config.budget).items() if v is not None]
        steps = limit * 60 / self.seconds if name == "minutes" else limit / self.amounts[name]
        validations = steps / config.valid.every_steps * config.valid.sequences * config.seq_len
        read = FORWARD * (min(validations, steps * self.valid_tokens) + self.valid_tokens)
        read += sum(YARDSTICKS.get(yardstick, 0.0) for yardstick in named(config.evaluate_at_end))
        along = sum(YARDSTICKS.get(yardstick, 0.0) for yardstick in named(config.evaluate_along))
        read += max(config.checkpoint.log_spaced - 1, 0) * along  # the last one is the end, measured above
        return START + steps * self.seconds + read / self.tokens_per_second


class _Clock(Callback):
    """Notes the ledger after the steps that warm up, and ends a measurement that takes too long."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.before: dict[str, float] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        ledger: Ledger = pl_module.ledger  # type: ignore[assignment]
        if ledger.steps == FIRST:
            self.before = ledger.state_dict()
        elif ledger.steps > FIRST and time.monotonic() - self.began > SECONDS:
            trainer.should_stop = True


def pace_of(config: TrainConfig) -> Pace:
    """Train a few steps of ``config`` and throw them away; the corpus is prepared on the way.

    Raises:
        LmzooError: as a run would.
    """
    quieten()
    cache = Path(config.cache_dir) if config.cache_dir else default_cache_dir()
    store = trained_on(prepare(config.data, config.tokenizer, cache), config.data)
    module = build_module(config, store)
    tell_words(config, module, store.tokenizer)
    module.budget = BudgetConfig(steps=STEPS)
    clock = _Clock()
    trainer = L.Trainer(
        accelerator=config.hardware.accelerator,
        devices=1,
        precision=PRECISIONS[precision_of(config.hardware)],  # type: ignore[arg-type]
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(module, datamodule=build_datamodule(config, store))
    ledger = module.ledger
    timed = ledger.steps - FIRST
    seconds = (ledger.seconds - clock.before["seconds"]) / timed
    if seconds <= 0:
        raise LmzooError("the clock of this machine stands still, so no time can be foretold")
    amounts = {
        "steps": 1.0,
        "tokens": (ledger.tokens_seen - clock.before["tokens_seen"]) / timed,
        "epochs": config.batch_size / max(ledger.rows_an_epoch, 1),
        "flops": (ledger.flops - clock.before["flops"]) / timed,
        "predicted_tokens": (ledger.predicted_tokens - clock.before["predicted_tokens"]) / timed,
    }
    return Pace(seconds, amounts, ledger.rows_an_epoch, store.parts["valid"].num_tokens)
