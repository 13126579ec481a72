"""Which runs belong together, what tells them apart and what they have in common, by their configs alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from lmzoo.analysis.records import Run
from lmzoo.errors import LmzooError
from lmzoo.summary import ABSENT

APART = ("seed", "cache_dir", "resume", "evaluate_at_end", "evaluate_along")
"""Keys that make no other arm."""
APART_SECTIONS = ("hardware", "logger", "checkpoint", "valid")
"""Sections that change nothing that is learned."""
FIRST = ("model.name", "objective.name", "context", "size", "budget")
"""What an arm is named by, if it tells arms apart; the value alone says what it is."""
_SECTIONS = ("objective", "model", "data", "tokenizer", "optimizer", "schedule")
_NOTHING = object()


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"model": {"name": "gpt"}}`` as ``{"model.name": "gpt"}``."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Put runs that differ in seed alone together, and name each such arm by what tells it apart.

    Sets ``arm`` of every run.

    Returns:
        the runs of each arm, by their seeds; the arms in the order of their first runs.

    Raises:
        LmzooError: two runs with one config and one seed, by name: one outcome must not count twice.
    """
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(_identity(run), []).append(run)
    arms = list(together.values())
    for members in arms:
        members.sort(key=lambda run: run.seed)
        for one, other in pairwise(members):
            if one.seed == other.seed:
                raise LmzooError(
                    f"{one.folder} and {other.folder} have the same config and seed {one.seed}, and a seed "
                    "counts once; leave one out"
                )
    names = names_of([settings(members[0]) for members in arms])
    for name, members in zip(names, arms, strict=True):
        for run in members:
            run.arm = name
    return dict(zip(names, arms, strict=True))


def settings(run: Run) -> dict[str, Any]:
    """The keys that make a run another arm; one that is not set is as one that is not there."""
    found = {k: v for k, v in flat(run.config).items() if v is not None}
    budget = [f"{k.removeprefix('budget.')}={shown(v)}" for k, v in found.items() if k.startswith("budget.")]
    found = {k: v for k, v in found.items() if not k.startswith("budget.")} | {"budget": ", ".join(budget)}
    return {k: v for k, v in found.items() if k not in APART and k.split(".")[0] not in APART_SECTIONS}


def _identity(run: Run) -> str:
    return json.dumps(settings(run), sort_keys=True, default=str)


def differing(several: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that are not the same everywhere, the most telling first; a key that one lacks differs."""
    keys = list(dict.fromkeys(key for each in several for key in each))
    found = [
        key
        for key in keys
        if any(each.get(key, _NOTHING) != several[0].get(key, _NOTHING) for each in several)
    ]
    return sorted(found, key=_rank)


def _rank(key: str) -> tuple[int, int]:
    section = key.split(".")[0]
    first = FIRST.index(key) if key in FIRST else len(FIRST)
    return first, _SECTIONS.index(section) if section in _SECTIONS else len(_SECTIONS)


def names_of(several: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each, of as few of the differing keys as tell all apart; each is another.

    A key is taken only where it parts what had one name so far: of ELMo, GPT and BERT the model's name is
    enough, however much follows from it.
    """
    parts: list[list[str]] = [[] for _ in several]
    keys = differing(several)
    short = _short(keys)
    for key in keys:
        alike: dict[tuple[str, ...], list[int]] = {}
        for number, chosen in enumerate(parts):
            alike.setdefault(tuple(chosen), []).append(number)
        for numbers in alike.values():
            values = [several[number].get(key, _NOTHING) for number in numbers]
            told = _told(values)
            if len(set(told)) < 2:
                continue
            for number, value, text in zip(numbers, values, told, strict=True):
                if value is not _NOTHING:
                    parts[number].append(text if key in FIRST else f"{short[key]}={text}")
    usual = [f"{each.get('model.name')} {each.get('objective.name')}" for each in several]
    return [" ".join(chosen) or name for chosen, name in zip(parts, usual, strict=True)]


def _short(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or all of it where two end alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {
        key: key if ends.count(end) > 1 or end == "name" else end for key, end in zip(keys, ends, strict=True)
    }


def _told(values: Sequence[Any]) -> list[str]:
    """Values in words; of paths the names of the files alone, where these tell them apart."""
    texts = [shown(value) for value in values]
    names = [PurePath(text).name if "/" in text else text for text in texts]
    return names if len(set(names)) == len(set(texts)) else texts


def shown(value: Any) -> str:
    """A setting for a reader."""
    if value is None or value is _NOTHING:
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(shown, value)) if isinstance(value, list) else str(value)


def compared(arms: Mapping[str, Sequence[Run]]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """What differs between the arms (by key, then arm), and what is the same in all (by key).

    Hardware is told of where it differs between any runs, since seconds depend on it.
    """
    several = {arm: settings(runs[0]) for arm, runs in arms.items()}
    keys = differing(list(several.values()))
    whole = {arm: flat(runs[0].config) for arm, runs in arms.items()}
    apart = {
        key: {
            # what is there and empty is told from what is not there
            arm: "null" if key not in each and key in whole[arm] else shown(each.get(key, _NOTHING))
            for arm, each in several.items()
        }
        for key in keys
    }
    runs = [run for members in arms.values() for run in members]
    machines = {
        arm: [flat(run.config.get("hardware") or {}, "hardware.") for run in each]
        for arm, each in arms.items()
    }
    for key in differing([each for several in machines.values() for each in several]):
        apart[key] = {
            arm: ", ".join(dict.fromkeys(shown(each.get(key)) for each in several))
            for arm, several in machines.items()
        }
    precisions = {
        arm: ", ".join(
            dict.fromkeys(shown((run.metrics or {"run": {}})["run"].get("precision")) for run in each)
        )
        for arm, each in arms.items()
    }
    if len(set(precisions.values())) > 1:
        apart["precision"] = precisions
    first = settings(runs[0])
    equal = {key: shown(first[key]) for key in sorted(first, key=_rank) if key not in keys}
    return apart, equal


def same_batches(one: Run, other: Run) -> bool:
    """Whether runs of one seed see the same rows in the same order: one text, cut and batched alike."""
    keys = ("data", "tokenizer", "batch_size", "seq_len")
    return all(one.config.get(key) == other.config.get(key) for key in keys)
