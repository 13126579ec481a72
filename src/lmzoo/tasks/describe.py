"""A task's YAML into its config, checked: what does not go together is refused with the file and the key."""

from __future__ import annotations

import types
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from lmzoo.errors import LmzooError
from lmzoo.places import config_folder
from lmzoo.plain_yaml import read_yaml
from lmzoo.tasks.config import FORMATS, SHAPES, TaskConfig
from lmzoo.tasks.formats import CONLLU_FIELDS, JOIN

METRICS: dict[str, tuple[str, ...]] = {
    "accuracy": ("sentence", "pair", "tagging"),
    "f1": ("sentence", "pair"),
    "matthews": ("sentence", "pair"),
    "pearson_spearman": ("sentence", "pair"),
    "entity_f1": ("tagging",),
    "exact_match_f1": ("spans",),
}
"""What each metric can score."""
_ROWS = ("tsv", "jsonl", "hub")
_FORMATS: dict[str, tuple[str, ...]] = {
    "sentence": _ROWS,
    "pair": _ROWS,
    "tagging": ("conll", "conllu", "jsonl", "hub"),
    "spans": ("squad", "jsonl", "hub"),
}
_LANGUAGES = ("en", "zh")
_TEXTS = {"sentence": 1, "pair": 2, "tagging": 1, "spans": 2}


def task_names() -> list[str]:
    """The tasks that lmzoo brings, sorted."""
    return sorted(path.stem for path in (config_folder() / "task").glob("*.yaml"))


def read_config(task: str) -> tuple[TaskConfig, Path | None]:
    """The config of a task, and the folder of its YAML where that is a file of the user's own.

    Args:
        task: a name in `conf/task/`, or a path ending in .yaml or .yml.

    Raises:
        LmzooError: no such task or file; an unknown key, a value of another type, or values that do not go
            together, naming the file and the key.
    """
    own = task.endswith((".yaml", ".yml"))
    if own:
        path = Path(task).expanduser()
        if not path.is_file():
            raise LmzooError(f"task={task} does not exist (looked in {Path.cwd()})")
    else:
        names = task_names()
        if task not in names:
            near = get_close_matches(task, names, n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise LmzooError(
                f"task={task} is not known; {hint}choose one of: {', '.join(names)}; or give a FILE.yaml"
            )
        path = config_folder() / "task" / f"{task}.yaml"
    config = _typed_config(path)
    _check(config, path)
    return config, path.parent if own else None


def _typed_config(path: Path) -> TaskConfig:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise LmzooError(f"{path} holds no keys; write KEY: VALUE lines, as the files in conf/task do")
    known = [entry.name for entry in fields(TaskConfig)]
    hints = get_type_hints(TaskConfig)
    typed = {}
    for key, value in values.items():
        if key not in known:
            near = get_close_matches(str(key), known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"a task has: {', '.join(known)}"
            raise LmzooError(f"{path}: {key}: there is no such key; {hint}")
        try:
            typed[key] = _typed(value, hints[key])
        except ValueError:
            raise LmzooError(
                f"{path}: {key}: {value!r} is of the wrong type: give {_in_words(hints[key])}"
            ) from None
    return TaskConfig(**{"name": path.stem, **typed})


def _typed(value: Any, hint: Any) -> Any:
    """``value`` if it is of this type, or a whole number where a text or a number is asked for.

    Raises:
        ValueError: it is not.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds:
        holder = get_origin(kind)
        if kind is type(None) and value is None:
            return None
        if holder is list and isinstance(value, list):
            return [_typed(one, get_args(kind)[0]) for one in value]
        if holder is dict and isinstance(value, dict):
            return {_typed(name, str): _typed(one, get_args(kind)[1]) for name, one in value.items()}
        if kind is Any or (holder is None and type(value) is kind):
            return value
        if kind is str and type(value) is int:  # labels: [0, 1]
            return str(value)
        if kind is float and type(value) is int and abs(value) < 2**63:
            return float(value)
    raise ValueError(value)


def _in_words(hint: Any) -> str:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = {str: "text (in quotes if YAML reads something else)", int: "a whole number", float: "a number"}
    words |= {bool: "true or false", type(None): "null"}
    said = []
    for kind in kinds:
        if get_origin(kind) is list:
            said.append(f"a list as in [A, B], each {words[get_args(kind)[0]]}")
        elif get_origin(kind) is dict:
            said.append("a section of NAME: VALUE lines")
        else:
            said.append(words[kind])
    return " or ".join(said)


def _check(config: TaskConfig, path: Path) -> None:
    """Refuse what does not go together. Raises LmzooError."""

    def refuse(key: str, what: str) -> None:
        raise LmzooError(f"{path}: {key}: {what}")

    named = {"shape": SHAPES, "format": FORMATS, "metric": METRICS, "language": _LANGUAGES}
    for key, choices in named.items():
        value = getattr(config, key)
        if value not in choices:
            wrong = "is missing" if value == "???" else f"{value} is not known"
            refuse(key, f"{wrong}; choose one of: {', '.join(choices)}")
    if config.train == "???":
        refuse("train", "is missing; name the training file, relative to task.root")
    if not config.name.isprintable() or config.name in ("", ".", "..") or set(config.name) & {"/", "\\"}:
        refuse("name", f"{config.name!r} cannot name the folder of the results; give a plain name")
    for key in ("train", "valid", "test") if config.format != "hub" else ():
        for name in (getattr(config, key) or "").split(JOIN):
            if Path(name).is_absolute() or name.startswith("~") or ".." in Path(name).parts:
                refuse(
                    key, f"{name!r} leads out of task.root; move the file there, or give it with task.{key}="
                )
    if config.format not in _FORMATS[config.shape]:
        refuse("format", f"a task of shape {config.shape} is read from {', '.join(_FORMATS[config.shape])}")
    if config.shape not in METRICS[config.metric]:
        fitting = [name for name, shapes in METRICS.items() if config.shape in shapes]
        refuse("metric", f"{config.metric} does not score {config.shape}; choose {', '.join(fitting)}")
    if config.regression != (config.metric == "pearson_spearman"):
        refuse("regression", "true goes with metric: pearson_spearman, and that metric with nothing else")
    count = _TEXTS[config.shape]
    if config.format in _ROWS and (len(config.texts) != count or not config.label):
        refuse("texts", f"the shape {config.shape} takes {count} in texts:, and a label: beside it")
    if config.format not in _ROWS and config.texts:
        refuse("texts", f"format {config.format} names no columns; leave them out")
    if config.format == "conllu" and (config.label or "upos") not in CONLLU_FIELDS:
        refuse("label", f"{config.label} is no field of CoNLL-U; choose one of: {', '.join(CONLLU_FIELDS)}")
    if config.metric == "f1" and config.positive is None:
        refuse("positive", "name the label that f1 is of")
    if config.positive is not None and config.labels is not None and config.positive not in config.labels:
        refuse("positive", f"{config.positive} is not among the labels {', '.join(config.labels)}")
    if config.labels is not None and len(set(config.labels)) < max(2, len(config.labels)):
        refuse("labels", "give two or more, each once")
    if not 0 < config.split_fraction < 1:
        refuse("split_fraction", f"{config.split_fraction} is not between 0 and 1")
    if config.split not in (None, "hash") and config.shape not in ("sentence", "pair"):
        refuse("split", f"rows of the shape {config.shape} have no column {config.split}; write hash")
    if config.format == "hub" and not config.hub:
        refuse("hub", "is missing: format hub needs the data set's name")
    if config.max_length is not None and config.max_length < 1:
        refuse("max_length", f"{config.max_length} is no number of tokens; give 1 or more")
    for mode, rate in config.lr.items():
        if mode not in ("frozen", "full") or not 0 < rate < float("inf"):
            refuse("lr", f"{mode}: {rate}: name frozen or full, each with a number above 0")
