"""What lies in a folder that is said to hold a model, before any weight is read. Without torch.

A run folder, a model folder of ours, a Hugging Face folder from elsewhere, a published ELMo, or a name on
the hub, which is fetched.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from lmzoo.errors import LmzooError
from lmzoo.hub.allennlp import describe_options, is_published
from lmzoo.hub.foreign import read_config
from lmzoo.hub.forms import Form, native_form
from lmzoo.hub.headers import CONFIG, GENERATOR_FOLDER, WEIGHTS, read_json, tensor_names, weights_file
from lmzoo.nn.config import MODELS, ModelConfig
from lmzoo.objectives.config import OBJECTIVES, BilmConfig, ObjectiveConfig
from lmzoo.plain_yaml import read_yaml
from lmzoo.types import Context, SpecialTokens

OWN, ALLENNLP = "lmzoo", "allennlp"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_ALWAYS = ("*.json", "*.txt", "*.model")
_NEVER = ("*/*",)
"""Subfolders: the same weights for other programs."""


@dataclass(frozen=True)
class Description:
    """A model without its weights."""

    folder: Path
    form: str
    """`lmzoo` (our names and, for other programs, our code), `allennlp`, or transformers' model_type."""
    model: ModelConfig
    """Complete."""
    objective: str
    context: str
    seq_len: int | None
    """The longest row it was trained on or has positions for, if known."""
    tokenizer_path: Path | None
    """The folder with the tokenizer's files; None where the model needs no vocabulary."""
    objective_config: ObjectiveConfig
    vocab_size: int | None = None
    """Rows of the table of tokens, which may be more than the tokenizer has; None if not known."""
    special: SpecialTokens | None = None
    """None where the tokenizer says it."""
    opening: bool = True
    """Whether a row begins with `[CLS]`, or with what stands for it, as rows of lmzoo do."""
    notes: tuple[str, ...] = ()
    """What the folder says that a model of ours cannot do alike."""


_BARE_ROWS = ("gpt2", "openai-gpt")
"""Models whose own tokenizers put nothing around a text."""


def describe(path: str | Path) -> Description:
    """Describe the model of a run folder, a model folder or a hub name.

    Raises:
        LmzooError: there is no model, its files are damaged or of another version, or it is one that
            lmzoo does not have.
    """
    folder = find_model(path)
    if is_published(folder):
        return _published(folder)
    given = read_json(folder / CONFIG)
    if "lmzoo" in given:
        return _own(folder, given)
    if "model_type" not in given and "lmzoo_version" in given:
        raise LmzooError(f"{folder} is of another version of lmzoo; export the run again")
    foreign = read_config(folder / CONFIG, given, tensor_names(folder))
    objective = OBJECTIVES[foreign.objective]()
    return Description(
        folder,
        given["model_type"],
        foreign.model,
        objective.name,
        objective.contexts[0].value,
        foreign.seq_len,
        folder,
        objective,
        foreign.vocab_size,
        opening=given["model_type"] not in _BARE_ROWS,
        notes=tuple(foreign.notes),
    )


def _published(folder: Path) -> Description:
    objective = BilmConfig()
    context = objective.contexts[0].value
    # a table of the vocabulary is not part of what was published
    return Description(
        folder, ALLENNLP, describe_options(folder), objective.name, context, None, None, objective
    )


def _own(folder: Path, given: Mapping[str, Any]) -> Description:
    where = folder / CONFIG
    said = given["lmzoo"]
    try:
        model = _named(MODELS, said["model"], "lmzoo.model")
        objective = _named(OBJECTIVES, said["objective"], "lmzoo.objective")
        special = _filled(SpecialTokens, said["special_tokens"], "lmzoo.special_tokens")
        context = Context(said["context"])
        seq_len = _checked(int | None, said["seq_len"], "lmzoo.seq_len")
        form, reason = native_form(model, objective, context)
        kind = str(given.get("model_type"))
        if context not in objective.contexts or context not in model.contexts:
            raise ValueError(f"lmzoo.context={context.value}")
        if model.positions not in model.position_choices:
            raise ValueError(f"lmzoo.model.positions={model.positions}")
        if kind != OWN and (form is None or form.model_type != kind):
            raise ValueError(f"model_type={kind}: {reason or 'the key lmzoo tells of another model'}")
        if model.vectors is not None and (Path(model.vectors).name != model.vectors or model.vectors == ".."):
            raise ValueError(f"lmzoo.model.vectors={model.vectors} is no plain name of a file beside it")
        if max(special.ids) >= special.vocab_size:
            raise ValueError(f"lmzoo.special_tokens: {max(special.ids)} is no id")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise LmzooError(
            f"{where} is damaged or of another version ({reason}); export the run again"
        ) from error
    if form is not None and kind != OWN:
        _refuse_contradiction(where, given, form, model)
    return Description(
        folder,
        kind,
        _with_vectors_of_run(folder, model),
        objective.name,
        context.value,
        seq_len,
        folder,
        objective,
        special.vocab_size,
        special,
    )


_UNSAID = ("name", "dropout", "initializer", "initializer_range", "scale_residual", "vectors",
           "freeze_vectors", "character_size", "characters_per_token", "filters", "num_highway")  # fmt: skip
"""Fields of a model that do not change what its weights compute, or that no native form has."""


def _refuse_contradiction(where: Path, given: Mapping[str, Any], form: Form, model: ModelConfig) -> None:
    """Someone may have changed the keys that transformers reads, and not ours."""
    there = read_config(where, dict(given), None).model
    for entry in fields(model):
        here, other = getattr(model, entry.name), getattr(there, entry.name)
        unused = entry.name in _UNSAID or (entry.name == "rotary_base" and model.positions != "rotary")
        if not unused and here != other:
            raise LmzooError(
                f"{where} says two things: lmzoo.model.{entry.name}={here}, and {form.title}'s keys mean "
                f"{other}; take the key lmzoo out to follow them"
            )


def _with_vectors_of_run(folder: Path, model: ModelConfig) -> ModelConfig:
    """An export names its vectors' file, which may be put beside it; a run's config knows where it lies."""
    if model.vectors is None:
        return model
    model = replace(model, vectors=str(folder / model.vectors))
    run = folder.parent / "config.yaml"
    if folder.name != "model" or not run.is_file():
        return model
    try:
        path = read_yaml(run)["model"]["vectors"]
    except (LmzooError, KeyError, TypeError):
        return model
    return replace(model, vectors=path) if isinstance(path, str) else model


# ---------------------------------------------------------------------------------- values from a file

_MAY_BE_ZERO = ("num_segments", "max_positions", "num_highway", "pad", "unk", "cls", "sep", "mask")


def _named(kinds: Mapping[str, type], values: Any, where: str) -> Any:
    """The dataclass that the key ``name`` chooses, filled.

    Raises:
        KeyError, TypeError, ValueError: not one of ``kinds``, or see ``_filled``.
    """
    if values["name"] not in kinds:
        raise ValueError(f"{where}.name={values['name']}")
    return _filled(kinds[values["name"]], values, where)


LATER = (
    *("norm", "query_key_norm", "local_window", "global_every", "local_rotary_base", "ngrams", "buckets"),
    *("unit", "final_mask_rate", "loss", "num_samples", "label_smoothing", "words", "span_boundary"),
    *("cutoffs", "tail_divisor"),
)
"""Keys that models from before 2026-11-21 have not, and whose defaults say what those are."""


def _filled(kind: type, values: Any, where: str) -> Any:
    """A dataclass from values of its keys, each of its own type; what came with a later version has its default.

    Raises:
        TypeError, ValueError: a key is missing or unknown, or a value is of another type or out of bounds.
    """
    hints = {name: hint for name, hint in get_type_hints(kind).items() if get_origin(hint) is not ClassVar}
    values = {name: getattr(kind, name) for name in LATER if name in hints} | values
    for name in sorted(set(values) ^ set(hints)):
        raise ValueError(f"{where}.{name} is {'unknown' if name in values else 'missing'}")
    return kind(**{name: _checked(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _checked(hint: Any, value: Any, where: str) -> Any:
    """``value``, if it is of this type and, being a size, above zero."""
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in allowed:
        if get_origin(kind) is list and isinstance(value, list):
            return [_checked(get_args(kind)[0], each, where) for each in value]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is kind:
            _check_bounds(value, where)
            return value
    raise ValueError(f"{where}={value!r}")


def _check_bounds(value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    least = 0 if isinstance(value, float) or where.rpartition(".")[2] in _MAY_BE_ZERO else 1
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{where}={value}")


# ---------------------------------------------------------------------------------- where it lies


def find_model(path: str | Path) -> Path:
    """The model folder of a run folder, the folder itself if it is one, or that of a name on the hub.

    Raises:
        LmzooError: there is none.
    """
    given = Path(path)
    for folder in (given / "model", given):
        if (folder / CONFIG).is_file() and weights_file(folder) is not None:
            return folder
        if is_published(folder):
            return folder
    # `owner/name` beside a folder called owner is a folder that is not there
    local = (
        given.exists() or given.expanduser().is_absolute() or (len(given.parts) > 1 and given.parent.is_dir())
    )
    if local or not _HUB_NAME.fullmatch(str(path)):
        raise LmzooError(
            f"{path} holds no model ({CONFIG} and {WEIGHTS}, there or in model/); "
            "give a finished run, or a Hugging Face folder"
        )
    return _fetch(str(path))


def _fetch(name: str) -> Path:
    """The folder of a model on the hub, from the cache or the network."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise LmzooError(
            f"{name}: there is no such folder, and to fetch it from the hub by that name "
            "takes pip install 'lmzoo[hub]'"
        ) from error
    try:
        weights = "model*.safetensors"
        folder = _snapshot(snapshot_download, name, weights)
        if weights_file(folder) is None:
            weights = "pytorch_model*.bin"
            folder = _snapshot(snapshot_download, name, weights)
        if (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("model_type") == "electra":
            beside = [f"{GENERATOR_FOLDER}/{file}" for file in (CONFIG, weights)]
            snapshot_download(name, revision=folder.name, allow_patterns=beside)
    except LmzooError:
        raise
    except Exception as error:  # a dozen types: no network, no such name, no right to it, no room
        raise LmzooError(
            f"{name}: there is no such folder, and the hub did not give a model of that name "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}); give a folder or another name"
        ) from error
    if not (folder / CONFIG).is_file() or weights_file(folder) is None:
        raise LmzooError(f"{name} on the hub holds no model ({CONFIG} and {WEIGHTS}); give another")
    return folder


def _snapshot(download: Any, name: str, weights: str) -> Path:
    return Path(download(name, allow_patterns=[*_ALWAYS, weights], ignore_patterns=list(_NEVER)))
