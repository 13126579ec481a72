"""What may be said together: every check that needs no file, no weight and no machine."""

from __future__ import annotations

from typing import Any

from lmzoo.data.config import SOURCES, VIEWS, DataConfig, check_sources
from lmzoo.errors import LmzooError, MismatchError, one_of
from lmzoo.nn.config import MODELS, ModelConfig, StaticConfig
from lmzoo.objectives.config import (
    OBJECTIVES,
)
from lmzoo.settings import BudgetConfig, HardwareConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from lmzoo.text.config import TOKENIZERS, TokenizerConfig, check_tokenizer
from lmzoo.types import Context
from lmzoo.yardsticks.registry import check_at_end

CHOICES: dict[str, tuple[str, ...]] = {
    "model.name": tuple(MODELS),
    "model.head": ("dense", "plain"),
    "model.norm_placement": ("pre", "post"),
    "model.norm": ("layer", "rms"),
    "model.activation": ("geglu", "swiglu", "gelu", "gelu_tanh", "relu"),
    "model.embedding": ("table", "ngrams", "characters"),
    "objective.name": tuple(OBJECTIVES),
    "objective.loss": ("full", "sampled", "adaptive"),
    "objective.unit": ("token", "word", "span", "ngram"),
    "objective.variant": ("electra", "electra_15", "replace_mlm", "all_tokens_mlm"),
    "data.source": SOURCES,
    "data.sentences": ("split", "lines"),
    "data.view": VIEWS,
    "tokenizer.name": TOKENIZERS,
    "optimizer.name": ("adamw", "muon", "adagrad"),
    "schedule.name": ("linear", "cosine", "inverse_sqrt", "constant", "wsd"),
    "averaging.name": ("none", "ema", "last"),
    "hardware.accelerator": ("auto", "cpu", "gpu"),
    "hardware.strategy": ("auto", "ddp", "fsdp"),
    "hardware.precision": ("auto", "fp32", "bf16", "fp16"),
    "hardware.attention": ("auto", "flex"),
    "logger.name": ("wandb", "tensorboard", "csv", "none"),
    "logger.mode": ("auto", "online", "offline", "disabled"),
    "context": tuple(context.value for context in Context),
}

INTERVALS: dict[str, str] = {
    "seed": "[0, 9223372036854775808)",
    "skip_nonfinite": "[0, inf)",
    "batch_size": "[1, inf)",
    "seq_len": "[8, inf)",
    "model.num_layers": "[1, inf)",
    "model.hidden_size": "[1, inf)",
    "model.num_heads": "[1, inf)",
    "model.ffn_size": "[1, inf)",
    "model.cell_size": "[1, inf)",
    "model.cell_clip": "[0, inf)",
    "model.projection_clip": "[0, inf)",
    "model.rotary_base": "(1, inf)",
    "model.local_window": "[2, inf)",
    "model.global_every": "[2, inf)",
    "model.local_rotary_base": "(1, inf)",
    "model.dropout": "[0, 1)",
    "model.norm_eps": "(0, 1)",
    "model.character_size": "[1, inf)",
    "model.characters_per_token": "[8, inf)",
    "model.num_highway": "[0, inf)",
    "model.buckets": "[1, inf)",
    "model.initializer_range": "(0, inf)",
    "model.num_segments": "[0, inf)",
    "model.max_positions": "[0, inf)",
    "objective.num_samples": "[1, inf)",
    "objective.tail_divisor": "[1, 64]",
    "objective.label_smoothing": "[0, 1)",
    "objective.mask_rate": "(0, 1)",
    "objective.final_mask_rate": "(0, 1)",
    "objective.causal_share": "[0, 1]",
    "objective.mask_share": "[0, 1]",
    "objective.random_share": "[0, 1]",
    "objective.keep_share": "[0, 1]",
    "objective.generator_size": "(0, 1]",
    "objective.discriminator_weight": "(0, inf)",
    "objective.window": "[1, inf)",
    "objective.negatives": "[1, inf)",
    "objective.subsample": "[0, 1]",
    "data.valid_fraction": "(0, 1)",
    "data.train_fraction": "(0, 1]",
    "data.short_pairs": "[0, 1]",
    "data.processes": "[1, inf)",
    "data.shards": "[1, 256]",
    "data.max_bytes": "[1, inf)",
    "tokenizer.vocab_size": "[6, inf)",
    "tokenizer.min_count": "[1, inf)",
    "tokenizer.sample_megabytes": "[1, inf)",
    "optimizer.lr": "(0, inf)",
    "optimizer.beta1": "[0, 1)",
    "optimizer.beta2": "[0, 1)",
    "optimizer.matrix_lr": "(0, inf)",
    "optimizer.momentum": "[0, 1)",
    "optimizer.eps": "(0, 1)",
    "optimizer.weight_decay": "[0, inf)",
    "optimizer.initial_accumulator": "[0, inf)",
    "optimizer.gradient_clip": "[0, inf)",
    "schedule.warmup": "[0, 1]",
    "schedule.final": "[0, 1]",
    "schedule.decay": "[0, 1]",
    "budget.steps": "[1, inf)",
    "budget.tokens": "(0, inf)",
    "budget.epochs": "(0, inf)",
    "budget.minutes": "(0, inf)",
    "budget.flops": "(0, inf)",
    "budget.predicted_tokens": "(0, inf)",
    "ramp.sequences": "[1, inf)",
    "ramp.batch_size": "[1, inf)",
    "ramp.seq_len": "[8, inf)",
    "hardware.nodes": "[1, inf)",
    "hardware.micro_batch": "[1, inf)",
    "hardware.workers": "[0, inf)",
    "logger.every_steps": "[1, inf)",
    "logger.timeout_seconds": "[0, inf)",
    "checkpoint.every_steps": "[1, inf)",
    "checkpoint.log_spaced": "[0, 40]",
    "averaging.decay": "[0, 1)",
    "averaging.checkpoints": "[1, inf)",
    "averaging.share": "(0, 1]",
    "valid.every_steps": "[1, inf)",
    "valid.sequences": "[1, inf)",
}
"""Where every number lies, in the usual notation; an open value (null) is not looked at."""


def _values(config: object, table: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, value, rule) of the keys of ``table`` that this config has and that are not open."""
    found = []
    for key, rule in table.items():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part, None)
        if value is not None:
            found.append((key, value, rule))
    return found


def _inside(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value > low or (interval[0] == "[" and value == low)
    below = value < high or (interval[-1] == "]" and value == high)
    return above and below


def check_values(config: object) -> None:
    """Check every choice and every number of a whole training config on its own.

    Raises:
        LmzooError: naming the key, its value and what would do; or a file of ``evaluate_at_end``.
    """
    for key, value, choices in _values(config, CHOICES):
        one_of(key, value, choices)
    for key, value, interval in _values(config, INTERVALS):
        if not _inside(value, interval):
            raise LmzooError(f"{key}={value} is out of range: give a number in {interval}")
    check_at_end(getattr(config, "evaluate_at_end", None))
    along = getattr(config, "evaluate_along", None)
    check_at_end(along, "evaluate_along")
    if along and not config.checkpoint.log_spaced:  # type: ignore[attr-defined]
        raise LmzooError(f"evaluate_along={along} needs checkpoints to measure: give checkpoint.log_spaced=8")


def check_data(data: DataConfig, tokenizer: TokenizerConfig) -> None:
    """Check which texts are named, not whether they exist. Raises LmzooError."""
    check_sources(data)
    check_tokenizer(tokenizer)


def check_optimizer(optimizer: OptimizerConfig, model: ModelConfig) -> None:
    """Raises MismatchError where there is nothing for Muon to do."""
    if optimizer.name == "muon" and isinstance(model, StaticConfig):
        raise MismatchError(
            f"optimizer=muon is for an encoder's matrices, and model={model.name} has none; give optimizer=adamw"
        )


def check_budget(budget: BudgetConfig) -> None:
    """Raises LmzooError where more than one budget is given, naming them."""
    given = [f"budget.{name}={value:g}" for name, value in vars(budget).items() if value is not None]
    if len(given) > 1:
        raise LmzooError(f"one budget at a time: {' and '.join(given)} are given; leave all but one out")


def check_schedule(schedule: ScheduleConfig) -> None:
    """Raises LmzooError where warm-up and decay together are longer than the budget."""
    if schedule.name == "wsd" and schedule.warmup + schedule.decay > 1:
        raise MismatchError(
            f"schedule.warmup={schedule.warmup} and schedule.decay={schedule.decay} sum to more than "
            "the whole budget; give shares that sum to 1 or less"
        )


def check_along_the_way(config: TrainConfig) -> None:
    """Check what is kept while a run goes on: branches and averages. Raises LmzooError."""
    branches = config.checkpoint.branches
    for share in branches or ():
        if not 0 < share < 1:
            raise LmzooError(f"checkpoint.branches={branches} is out of range: give shares in (0, 1)")
    if config.branch_from and config.init_from:
        raise LmzooError(
            f"init_from={config.init_from} and branch_from={config.branch_from} are two beginnings; drop one"
        )
    if config.hardware.strategy == "fsdp":
        for key, value in (
            ("averaging", config.averaging.name if config.averaging.name != "none" else None),
            ("branch_from", config.branch_from),
            ("checkpoint.branches", branches),
        ):
            if value:
                raise LmzooError(
                    f"{key}={value} needs whole weights, and hardware.strategy=fsdp spreads them over the "
                    "devices; give hardware=ddp, or leave it out"
                )


def check_hardware(hardware: HardwareConfig, batch_size: int, optimizer: str = "adamw") -> None:
    """Check what needs no look at the machine. Raises LmzooError."""
    devices = hardware.devices
    if not (devices == "auto" or (isinstance(devices, int) and devices >= 1)):
        raise LmzooError(f"hardware.devices={devices} is not known: give a whole number from 1, or auto")
    if isinstance(devices, int) and batch_size % (devices * hardware.nodes):
        raise MismatchError(
            f"batch_size={batch_size} cannot be shared by {devices * hardware.nodes} devices; "
            f"give a multiple of {devices * hardware.nodes}"
        )
    if hardware.precision == "fp16" and hardware.accelerator == "cpu":
        raise MismatchError(
            "hardware.precision=fp16 needs a GPU; on hardware.accelerator=cpu choose bf16 or fp32"
        )
    if hardware.strategy == "fsdp":
        _check_sharded(hardware, optimizer)


def _check_sharded(hardware: HardwareConfig, optimizer: str) -> None:
    if optimizer == "muon":
        raise LmzooError(
            "optimizer=muon needs whole matrices, and hardware.strategy=fsdp spreads them over the devices; "
            "give hardware=ddp or optimizer=adamw"
        )
    if hardware.precision == "fp16":
        raise LmzooError(
            "hardware.precision=fp16 does not go with hardware.strategy=fsdp; choose bf16 or fp32"
        )
    if hardware.compile:
        raise LmzooError("hardware.compile=true does not go with hardware.strategy=fsdp; drop one of them")
