"""What can be said about training on the command line: the optimizer, the budget, the machine, the logs,
and the whole of a run.

Types and defaults only; nothing here imports torch, so that `--help` and a refusal are quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lmzoo.data.config import DataConfig
from lmzoo.data.ramp import RampConfig
from lmzoo.nn.config import MODELS, ModelConfig
from lmzoo.objectives.config import OBJECTIVES, ObjectiveConfig
from lmzoo.text.config import TokenizerConfig


@dataclass
class OptimizerConfig:
    """`optimizer=`: AdamW with weight decay on matrices only; Muon beside it, for the encoder's; or Adagrad."""

    name: str = "adamw"
    lr: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.4
    """Strong, for short runs that read a small text several times; long runs want less of it. Adagrad's is
    added to the gradient, and 0 by `optimizer=adagrad`."""
    matrix_lr: float | None = None
    """Muon's rate, where it is not to be lr."""
    momentum: float = 0.95
    """Muon's; AdamW has beta1 instead."""
    initial_accumulator: float = 0.0
    """Adagrad's sums of squared gradients at the start."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""


@dataclass
class ScheduleConfig:
    """`schedule=`: the learning rate as a function of the share of the budget that is spent."""

    name: str = "linear"
    """`linear`, `cosine`, `inverse_sqrt`, `constant` or `wsd` (warm-up, stable, decay)."""
    warmup: float = 0.06
    """Share of the budget over which the rate rises from 0."""
    final: float = 0.0
    """Rate at the end, as a share of the peak (linear, cosine, wsd)."""
    decay: float = 0.2
    """`wsd`: share of the budget over which the rate falls at the end."""


@dataclass
class BudgetConfig:
    """`budget.`: exactly one; without one, the default budget in tokens."""

    steps: int | None = None
    tokens: float | None = None
    """Tokens seen, padding not counted."""
    epochs: float | None = None
    minutes: float | None = None
    """Minutes of training, validation and checkpoints not counted."""
    flops: float | None = None
    predicted_tokens: float | None = None


@dataclass
class HardwareConfig:
    """`hardware=`: must not change what is learned."""

    accelerator: str = "auto"
    """`auto`, `cpu` or `gpu`."""
    devices: int | str = 1
    """Of one machine; a number, or `auto` for all GPUs."""
    nodes: int = 1
    """Machines; more than one needs torchrun or srun (docs/scale.md)."""
    strategy: str = "auto"
    """`ddp` (each device has the whole model), `fsdp` (weights, gradients and optimizer states are spread
    over the devices; checkpoints are folders), or `auto`: ddp where there are several devices."""
    precision: str = "auto"
    """`auto` (bf16 where the processor has it), `fp32`, `bf16` or `fp16` (GPU only)."""
    compile: bool = False
    attention: str = "auto"
    """`auto` (lmzoo's own kernels on a CPU, PyTorch's elsewhere) or `flex` (on a GPU, without dropout: spares
    the work between documents that share a row)."""
    micro_batch: int | None = None
    """Rows of one forward pass on one device; without it, the device's whole share of the batch."""
    workers: int = 0
    """Processes that read data; reading is so quick that 0 is rarely the wrong number."""


@dataclass
class LoggerConfig:
    """`logger=`: history.csv is written always."""

    name: str = "wandb"
    """`wandb`, `tensorboard`, `csv` or `none`."""
    mode: str = "auto"
    """W&B: `online`, `offline`, `disabled` or `auto` (online where you are logged in)."""
    project: str = "lmzoo"
    entity: str | None = None
    group: str | None = None
    """W&B group; in a sweep, the sweep."""
    log_model: bool = False
    """W&B: keep the last and the best checkpoint as artifacts."""
    every_steps: int = 10
    timeout_seconds: float = 30.0
    """How long to wait for W&B's server before going on offline."""


@dataclass
class CheckpointConfig:
    """`checkpoint.`"""

    every_steps: int = 500
    """`last.ckpt` is written this often, at the end, and when a signal stops the run."""
    log_spaced: int = 0
    """So many exports of the weights, `checkpoints/step-N`: when 1, 1/2, 1/4, … of the budget is spent. For
    curves of yardsticks: `evaluate_along=`, or `lmzoo evaluate run= at=all`."""
    branches: list[float] | None = None
    """Shares of the budget after which the whole state is kept, `checkpoints/branch-SHARE.ckpt`, for
    `branch_from=`."""


@dataclass
class AveragingConfig:
    """`averaging=`: which weights are measured and exported, where not the last ones."""

    name: str = "none"
    """`none`, `ema` (an exponential mean over the steps) or `last` (the mean of the last so many)."""
    decay: float = 0.999
    """`ema`: what stays of the mean at each step."""
    checkpoints: int = 5
    """`last`: how many weights are averaged, evenly spaced, the last at the end of the budget."""
    share: float = 0.2
    """`last`: share of the budget that they span."""


@dataclass
class ValidConfig:
    """`valid.`"""

    every_steps: int = 500
    """Steps between validations on `sequences` rows; `best.ckpt` is the best of them."""
    sequences: int = 128
    """Rows of a validation during training, spread over the part; the last one takes all rows."""


DEFAULT_TOKENS = 900_000
"""The budget of a run to which none is given."""


@dataclass
class TrainConfig:
    """Everything that makes a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    ramp: RampConfig = field(default_factory=RampConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    valid: ValidConfig = field(default_factory=ValidConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    recipe: str | None = None
    """Whose settings these are, where `recipe=` was chosen; what the command line says of them wins."""
    size: str | None = None
    """`tiny` (the default), `mini`, `small`, `base` or `large`: fills what the model leaves open. The
    published models have the sizes that were published, and `toy` by default."""
    batch_size: int = 16
    """Sequences a step, over all devices and micro-batches together."""
    seq_len: int = 128
    """Tokens a sequence."""
    seed: int = 1
    skip_nonfinite: int = 0
    """How many steps may be left out because their loss or gradient is not finite, before the run stops."""
    cache_dir: str | None = None
    """Where prepared corpora lie; without it `LMZOO_CACHE`, or the platform's cache folder."""
    init_from: str | None = None
    """A run folder, a Hugging Face folder or a hub name whose weights to start from, with its shape and
    its tokenizer."""
    branch_from: str | None = None
    """A checkpoint of a run with the same settings to go on from in a run of its own, with its optimizer's
    state and its place in the text; what the budget counts is counted from the beginning (docs/recipes.md)."""
    resume: str | None = None
    """A run folder to go on in; the config comes from there."""
    evaluate_at_end: Any = None
    """Yardsticks to take when the run is done, one or a list (`lmzoo evaluate --help` has the names); their
    files are looked for in the folder that `LMZOO_DATA` names."""
    evaluate_along: Any = None
    """Likewise, of every checkpoint of `checkpoint.log_spaced`: `evaluations/step-N/NAME.json`."""
    context: str | None = None
    """`past`, `full`, `apart` or `none`; derived: the first that the objective accepts and the model gives."""


def with_later_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.yaml` holds of an earlier version's run, where the keys that came since have their defaults.

    The one rule of what old runs are here: a new key's default is what was done before there was the key. So an old
    run goes on, is branched from and is compared as what it is. Keys unknown to this version stay, and so does all of
    a config whose model or objective is unknown.
    """
    model, objective = (values[section]["name"] for section in ("model", "objective"))
    if model not in MODELS or objective not in OBJECTIVES:
        return dict(values)
    return _filled(asdict(TrainConfig(model=MODELS[model](), objective=OBJECTIVES[objective]())), values)


def _filled(defaults: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    found = {**defaults, **values}
    for name, default in defaults.items():
        if isinstance(default, dict) and isinstance(found[name], dict):
            found[name] = _filled(default, found[name])
    return found
