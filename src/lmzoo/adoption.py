"""`init_from=`: a model that is given to start from brings its shape, objective and tokenizer along.

What it brings is put in front of the command line as ordinary overrides, so that the command line still
wins, the run's config.yaml shows all of it, and a wish that does not fit the weights is refused by the
tensor that it does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.nn.config import MODELS, ModelConfig
from lmzoo.objectives.config import is_adaptive

_NOT_ADOPTED = ("name", "vectors", "freeze_vectors")
"""Of a model's config: the name is `model=`, and the vectors are in the weights by now."""


_ARCHITECTURE = (
    *("embedding", "positions", "embedding_norm", "tied", "head", "decoder_bias"),
    *("norm_placement", "norm", "query_key_norm", "activation", "bias"),
)
"""What a model's YAML chooses and no tensor's shape may show."""


def with_adopted(overrides: list[str], composed: Callable[[list[str]], Any]) -> list[str]:
    """``overrides``, and in front of them what the model of their ``init_from=`` brings.

    `task=` is put in `data.`'s words on the way: see ``with_task``.

    Args:
        overrides: the command line, its flags left out.
        composed: what Hydra makes of overrides (``lmzoo.config.composed``).

    Raises:
        LmzooError: there is no such model, or a sweep over several.
    """
    overrides = with_task(overrides)
    given = {key.lstrip("+"): value for key, _, value in (entry.partition("=") for entry in overrides)}
    source = _unquoted(given.get("init_from", "null"))
    if source in ("null", ""):
        return overrides
    if _is_sweep(source):
        raise LmzooError(
            f"init_from={source} gives several models, which differ in shape: give one, in a sweep too"
        )
    from lmzoo.hub.describe import describe

    described = describe(source)
    brought: dict[str, str] = {}
    if "model" not in given and "experiment" not in given:
        brought |= {"model": described.model.name, "objective": described.objective}
    objective = given.get("objective", brought.get("objective"))
    if objective == described.objective:
        brought["context"] = described.context
    config = _asked_for(overrides, brought, composed)
    asked = None if config is None else config.model
    if objective is None and config is not None:
        objective = config.objective.name  # the one that the model brings
    if asked is not None and MODELS.get(str(asked.name)) is type(described.model):
        if "model" in given:
            _refuse_other_architecture(source, described.model, asked)
        shape = {entry.name: getattr(described.model, entry.name) for entry in fields(described.model)}
        brought |= {
            f"model.{name}": _spelt(value) for name, value in shape.items() if name not in _NOT_ADOPTED
        }
    if objective == described.objective and is_adaptive(described.objective_config):
        head = {
            name: getattr(described.objective_config, name) for name in ("loss", "cutoffs", "tail_divisor")
        }
        if given.get("objective.loss", "adaptive") == "adaptive":
            brought |= {f"objective.{name}": _spelt(value) for name, value in head.items()}
            brought["tokenizer"] = "word"  # as such a head asks; the vocabulary itself is tokenizer.file's
    if described.tokenizer_path and not any(key.split(".")[0] == "tokenizer" for key in given):
        brought["tokenizer.file"] = _spelt(str(Path(described.tokenizer_path).absolute()))
    return [f"{key}={value}" for key, value in brought.items() if key not in given] + overrides


def with_task(overrides: list[str]) -> list[str]:
    """`task=NAME`, `task.root=` and so on as `data.task=`, `data.root=`; `data=task` comes with them."""
    said = [entry.partition("=") for entry in overrides]
    if not any(key == "task" for key, _, _ in said):
        return overrides
    changed = [
        f"data.{key.removeprefix('task.')}={value}"
        if key.partition(".")[0] == "task"
        else f"{key}{sign}{value}"
        for key, sign, value in said
    ]
    return changed if any(key == "data" for key, _, _ in said) else ["data=task", *changed]


def _asked_for(overrides: list[str], brought: dict[str, str], composed: Callable[[list[str]], Any]) -> Any:
    """The config that the command line's choices of a model lead to; None in a sweep over several."""
    if any(_is_sweep(entry.partition("=")[2]) for entry in overrides if entry.startswith("model=")):
        return None
    said = [entry for entry in overrides if entry.partition("=")[0] in ("model", "experiment")]
    try:
        return composed([f"{key}={value}" for key, value in brought.items()] + said)
    except LmzooError:  # refused in a moment, when all of the command line is composed
        return None


def _refuse_other_architecture(source: str, theirs: ModelConfig, asked: Any) -> None:
    """A `model=` may rename what is loaded (`bert` and `gpt` are one Transformer), not change it."""
    differing = [
        f"model.{name}={getattr(asked, name)} for {getattr(theirs, name)}"
        for name in _ARCHITECTURE
        if hasattr(theirs, name) and getattr(asked, name) != getattr(theirs, name)
    ]
    if differing:
        raise LmzooError(
            f"init_from={source} is a {theirs.name}, and model={asked.name} differs from it "
            f"({', '.join(differing)}): leave model= out, or give model={theirs.name}"
        )


def _is_sweep(value: str) -> bool:
    return "," in value and not value.startswith(("[", "'", '"'))


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _spelt(value: Any) -> str:
    """A value as Hydra reads it."""
    return json.dumps(value, ensure_ascii=False)
