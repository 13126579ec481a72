"""Hydra's and OmegaConf's refusals, which span several lines, told in one that says what to do."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache

from lmzoo.errors import LmzooError, MismatchError

_BELONGS = "it belongs to"


@cache
def known_keys() -> dict[str, tuple[str, ...]]:
    """Every key of every section by the name of its dataclass: ``{"OptimizerConfig": ("name", "lr", …)}``.

    The run's own keys and the names of its sections stand under ``TrainConfig``.
    """
    from lmzoo.nn.config import MODELS
    from lmzoo.objectives.config import OBJECTIVES
    from lmzoo.settings import TrainConfig

    train = TrainConfig()
    sections = [type(value) for value in vars(train).values() if is_dataclass(value)]
    classes = [TrainConfig, *sections, *MODELS.values(), *OBJECTIVES.values()]
    keys = {cls.__name__: tuple(entry.name for entry in fields(cls)) for cls in classes}
    keys["TrainConfig"] += ("experiment",)
    return keys


def unknown_key(key: str, owner: type | str | None) -> str:
    """What to say of ``key``, which ``owner`` (a dataclass or its name) does not have."""
    section, _, name = key.rpartition(".")
    owner = owner.__name__ if isinstance(owner, type) else owner or ""
    here = known_keys().get(owner, ())
    prefix = f"{section}." if section else ""
    near = [prefix + match for match in get_close_matches(name, here, n=3)]
    if not section:
        near += [found for found in _everywhere(name) if found not in near]
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the keys"
    elsewhere = _choices_with(section, name)
    if elsewhere:
        hint = f"{_BELONGS} {section}={'|'.join(elsewhere)}"
    elif not near and section and here:
        hint = f"{section} has: {', '.join(here)}"
    kind = f"this {section} ({owner}) does not have it" if section and here else "there is no such key"
    return f"{key}: {kind}; {hint}"


def _choices_with(section: str, name: str) -> list[str]:
    """The models or objectives that have a key which another one has not."""
    from lmzoo.nn.config import MODELS
    from lmzoo.objectives.config import OBJECTIVES

    choices = {"model": MODELS, "objective": OBJECTIVES}.get(section, {})
    return [choice for choice, cls in choices.items() if name in known_keys()[cls.__name__]]


def _everywhere(name: str) -> list[str]:
    """Sections that have the key ``name``: what was meant where its section was left out."""
    from lmzoo.settings import TrainConfig

    sections = {key: type(value) for key, value in vars(TrainConfig()).items() if is_dataclass(value)}
    return [f"{key}.{name}" for key, owner in sections.items() if name in known_keys()[owner.__name__]]


def composition_errors() -> tuple[type[Exception], ...]:
    """What Hydra raises for something the user wrote."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return (HydraException, OmegaConfBaseException, YAMLError, ValueError)


def refusal(error: Exception) -> LmzooError:
    """``explain``, as what is to be raised: a key that another model or objective has is a mismatch."""
    line = explain(error)
    return (MismatchError if _BELONGS in line else LmzooError)(line)


def explain(error: Exception) -> str:
    """One line for an error that Hydra or OmegaConf raised while a config was composed."""
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error) if error.__cause__ is None else f"{error}\n{error.__cause__}"
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {_override(error)!r}: write KEY=VALUE, and put a value with special characters "
            "in two kinds of quotes: 'KEY=\"a value\"'"
        )
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={choice} is not known; choose one of: {', '.join(error.options)}"
    several = re.search(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires", text)
    if several:
        given = several[1] or several[2]
        key, _, value = given.partition("=")
        return f"{given} gives several values: add -m for a run of each, or write {key}=[{value}] for a list"
    return _where(text) + _what(text)


def _override(error: Exception) -> str:
    override = getattr(error, "override", None) or str(error).splitlines()[0]
    return str(override)


def _where(text: str) -> str:
    file = re.search(r"In '(.+?)': ", text)
    return f"in {file[1]}.yaml: " if file else ""


def _what(text: str) -> str:
    key = re.search(r"full_key: (\S+)", text)
    owner = re.search(r"object_type=(\w+)", text)
    if key and re.search(r"Key '.*' not in ", text):
        return unknown_key(key[1], owner[1] if owner else None)
    if key and "is not Optional" in text:
        return f"{key[1]} cannot be null; give a value, or leave it out"
    section = re.search(r"Invalid type assigned: \w+ is not a subclass of (\w+)\. value: (.*)", text)
    if key and section:
        has = ", ".join(known_keys().get(section[1], ()))
        return f"{key[1]}={section[2]}: {key[1]} is a section; give {key[1]}.KEY=VALUE with a key of: {has}"
    for pattern in _WRONG_TYPE:
        value = re.search(pattern, text)
        if key and value:
            return f"{key[1]}={value[1]} is of the wrong type: give {_TYPES.get(value[2], value[2])}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


_WRONG_TYPE = (
    r"Value '(.*)' of type '.*' could not be converted to (\w+)",
    r"Value '(.*)' of type '.*' is incompatible with type hint '(.*)'",
    r"Value '(.*)' is not a valid (\w+)",
)
_TYPES = {
    "Integer": "a whole number",
    "Float": "a number",
    "Boolean": "true or false",
    "bool": "true or false",
    "Union[int, str]": "a whole number or a word",
}
