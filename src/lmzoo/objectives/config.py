"""What can be said about an objective on the command line, and what each asks of a model and a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lmzoo.errors import LmzooError
from lmzoo.nn.config import ModelConfig
from lmzoo.types import Context


@dataclass
class ObjectiveConfig:
    """What every objective says of itself."""

    contexts: ClassVar[tuple[Context, ...]] = ()
    """Contexts it accepts, the preferred one first."""
    views: ClassVar[tuple[str, ...]] = ("stream", "sentences", "pairs")
    """Views it accepts, the preferred one first."""

    name: str = ""


@dataclass
class BilmConfig(ObjectiveConfig):
    """ELMo's bidirectional language model (Peters et al. 2018, section 3.1)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.APART,)

    name: str = "bilm"


@dataclass
class ClmConfig(ObjectiveConfig):
    """The causal language model (Radford et al. 2018, section 3.1)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.PAST,)

    name: str = "clm"


@dataclass
class MlmConfig(ObjectiveConfig):
    """The masked language model (Devlin et al. 2019, section 3.1)."""

    contexts: ClassVar[tuple[Context, ...]] = (Context.FULL, Context.APART)

    name: str = "mlm"
    mask_rate: float = 0.15
    """Share of the positions to predict, in training; validation always takes 15 %."""
    mask_share: float = 0.8
    """Of those, the share replaced by `[MASK]`."""
    random_share: float = 0.1
    """The share replaced by a random token."""
    keep_share: float = 0.1
    """The share left as it is; the three shares sum to 1."""


@dataclass
class MlmNspConfig(MlmConfig):
    """Masked LM and next sentence prediction (Devlin et al. 2019, section 3.1, task 2)."""

    views: ClassVar[tuple[str, ...]] = ("pairs",)

    name: str = "mlm_nsp"


OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "bilm": BilmConfig,
    "clm": ClmConfig,
    "mlm": MlmConfig,
    "mlm_nsp": MlmNspConfig,
}


def common_context(model: ModelConfig, objective: ObjectiveConfig) -> Context:
    """The first context that the objective accepts and the encoder gives.

    Raises:
        LmzooError: there is none; names both sides and the choices that would work.
    """
    for context in objective.contexts:
        if context in model.contexts:
            return context
    works = [name for name, other in OBJECTIVES.items() if set(other.contexts) & set(model.contexts)]
    raise LmzooError(
        f"objective={objective.name} needs a context of {_names(objective.contexts)}, and model={model.name} "
        f"gives {_names(model.contexts)}; with this model choose objective={' or '.join(works) or '(none works)'}"
    )


def _names(contexts: tuple[Context, ...]) -> str:
    return "/".join(context.value for context in contexts)
