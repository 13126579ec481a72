"""Run folders, read for a comparison: which are meant, what each holds, and which are refused by name."""

from __future__ import annotations

import csv
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.settings import with_later_keys

EVALUATIONS, TASKS = "evaluations", "finetune"
"""Folders in a run folder; see ``yardsticks.base`` and ``tasks.result``."""
SEARCH = "search.json"
"""Beside the runs of a sweep: the learning rates that were tried for each arm."""
_STEP = re.compile(r"step-(\d+)")
_READING = re.compile(r"reading-(full|past)")


@dataclass(frozen=True)
class Outcome:
    """One yardstick or task of one run: its JSON, and the file of its items beside it."""

    path: Path
    record: dict[str, Any]
    items_path: Path
    reading: str | None = None
    """The one that was asked for, of a model that has several; see ``yardsticks.base.save``."""

    @property
    def yardstick(self) -> str:
        """Its name, whatever the reading."""
        return self.path.stem

    @property
    def name(self) -> str:
        """What its figures stand under: one reading is not mixed with another."""
        return self.yardstick if self.reading is None else read_as(self.yardstick, self.reading)

    def items(self) -> list[dict[str, Any]]:
        """The items, in order.

        Raises:
            LmzooError: the file cannot be read, or has not as many items as the record says.
        """
        lines = self.raw_items().decode("utf-8", "surrogatepass").splitlines()
        try:
            found = [json.loads(line) for line in lines]
        except ValueError as error:
            raise _damaged(self.items_path, str(error)) from error
        self._check(len(found))
        return found

    def flags(self, name: str) -> list[bool]:
        """One truth value of every item, found without reading the rest: some files are long.

        Raises:
            LmzooError: as ``items``.
        """
        # inside a JSON text every quote has a backslash before it, so this can only be a key
        pieces = self.raw_items().split(f'"{name}": '.encode())[1:]
        self._check(len(pieces))
        return [piece[:1] == b"t" for piece in pieces]

    def raw_items(self) -> bytes:
        """The unpacked file."""
        try:
            with gzip.open(self.items_path, "rb") as file:
                return file.read()
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(self.items_path, str(error)) from error

    def _check(self, count: int) -> None:
        if count != self.record.get("items"):
            raise _damaged(self.items_path, f"{count} items where {self.record.get('items')} were measured")


def read_as(yardstick: str, reading: str) -> str:
    """`minimal_pairs (read as past)`."""
    return f"{yardstick} (read as {reading})"


def _damaged(path: Path, what: str) -> LmzooError:
    return LmzooError(f"{path} is damaged ({what}); measure it again, or remove it with its JSON")


@dataclass
class Run:
    """One run folder."""

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any] | None
    """None of a run that is not finished."""
    name: str = ""
    """Below the folder that all runs share."""
    arm: str = ""
    """Set when the runs are told apart."""
    evaluations: dict[str, Outcome] = field(default_factory=dict)
    """By ``Outcome.name``."""
    tasks: dict[str, Outcome] = field(default_factory=dict)
    """By the name of the folder: TASK-MODE, and what is not at its default."""
    steps: dict[str, list[tuple[int, Outcome]]] = field(default_factory=dict)
    """Yardsticks of checkpoints along the way, by name, in the order of the steps."""

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def finished(self) -> bool:
        return self.metrics is not None

    @cached_property
    def history(self) -> dict[str, list[float | None]]:
        """The columns of history.csv; None where a row has no value. Empty where there is no such file."""
        path = self.folder / "history.csv"
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            names = next(rows, [])
            whole = [row for row in rows if len(row) == len(names)]  # a killed run's last row may be cut
        try:
            return {
                name: [float(value) if value else None for value in column]
                for name, column in zip(names, zip(*whole, strict=True), strict=False)
            }
        except ValueError as error:
            raise LmzooError(f"{path} is damaged ({error}); leave the run out") from error

    @cached_property
    def ledger(self) -> dict[str, float | None]:
        """What it cost; of an unfinished run, what its history tells."""
        if self.metrics is not None:
            return self.metrics["ledger"]
        tokens = _last(self.history, "train/tokens_seen")
        rate = _last(self.history, "train/tokens_per_second")
        return {
            "steps": _last(self.history, "step"),
            "tokens_seen": tokens,
            "flops": _last(self.history, "train/flops"),
            "seconds": tokens / rate if tokens and rate else None,
        }

    @property
    def content(self) -> str | None:
        """The hash of its prepared text and tokenizer; None of a run of an earlier version."""
        return None if self.metrics is None else self.metrics["run"].get("content")


def _last(history: dict[str, list[float | None]], name: str) -> float | None:
    return next((value for value in reversed(history.get(name, [])) if value is not None), None)


# ---------------------------------------------------------------------------------- which runs


@dataclass(frozen=True)
class Found:
    """The runs of a comparison."""

    runs: list[Run]
    together: Path
    """The folder that all of them lie in."""
    passed_over: dict[str, int]
    """Of each pattern, how many of the folders that it names are no runs."""


def read_runs(given: Sequence[str | Path], *, unfinished: bool = False) -> Found:
    """Read the runs that folders and patterns name, each once, in this order.

    Args:
        given: run folders, and patterns such as ``multirun/2026-11-21/*``.
        unfinished: take runs that have no metrics.json yet.

    Raises:
        LmzooError: a folder that is no run, a pattern without one, a run that is unfinished, or a file that
            cannot be read, by name.
    """
    folders: dict[Path, Path] = {}
    passed_over: dict[str, int] = {}
    for entry in given:
        path = Path(entry).expanduser()
        if glob.has_magic(str(path)) and not path.exists():
            named = [Path(found) for found in sorted(glob.glob(str(path), recursive=True), key=_naturally)]
            named = [each for each in named if each.is_dir()]
            chosen = [each for each in named if _is_run(each)]
            if not named:
                raise LmzooError(f"runs={entry} names no folder")
            if not chosen:
                raise LmzooError(f"runs={entry}: of {len(named)} folders that it names none is a run")
            if len(named) > len(chosen):
                passed_over[str(entry)] = len(named) - len(chosen)
        else:
            _refuse_no_run(entry, path)
            chosen = [path]
        for each in chosen:
            folders.setdefault(each.resolve(), each)
    if not folders:
        raise LmzooError("there is no run to compare; give runs=FOLDER, several as in [A,B], or a pattern")
    runs = [_read(folder) for folder in folders.values()]
    waiting = [str(run.folder) for run in runs if not run.finished]
    if waiting and not unfinished:
        several = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        raise LmzooError(
            f"not finished, as without metrics.json: {', '.join(waiting[:3])}{several}; go on with resume=, "
            "leave out, or take them as they are with unfinished=true"
        )
    together = Path(os.path.commonpath([run.folder.resolve().parent for run in runs]))
    for run in runs:
        run.name = run.folder.resolve().relative_to(together).as_posix()
    return Found(runs, together, passed_over)


def _naturally(path: str) -> list[tuple[int, int | str]]:
    """Job 10 after job 9."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path)]


def _is_run(folder: Path) -> bool:
    of_wandb = folder.name == "files" and folder.parent.parent.name == "wandb"  # W&B's own config.yaml
    return not of_wandb and (folder / "config.yaml").is_file()


def _refuse_no_run(entry: str | Path, path: Path) -> None:
    if not path.exists():
        hint = "; several are written [A,B]" if "," in str(entry) else ""
        raise LmzooError(f"runs={entry}: there is no such folder{hint}")
    if not path.is_dir():
        raise LmzooError(f"runs={entry} is a file; give a run folder")
    if not _is_run(path):
        below = any(_is_run(each) for each in path.iterdir() if each.is_dir())
        hint = f"; its runs are runs='{entry}/*'" if below else ""
        raise LmzooError(f"runs={entry} is no run: there is no config.yaml in it{hint}")


# ---------------------------------------------------------------------------------- what a run holds


def _read(folder: Path) -> Run:
    run = Run(folder, _config(folder / "config.yaml"), None)
    path = folder / "metrics.json"
    if path.is_file():
        run.metrics = read_json(path)
        if not all(isinstance(run.metrics.get(part), dict) for part in ("run", "ledger", "valid")):
            raise LmzooError(f"{path} is not what a run writes (run, ledger, valid); leave the run out")
    for outcome in _outcomes(folder / EVALUATIONS):
        run.evaluations[outcome.name] = outcome
    for place in sorted((folder / EVALUATIONS).glob("step-*")):
        if number := _STEP.fullmatch(place.name):
            for outcome in _outcomes(place):
                run.steps.setdefault(outcome.name, []).append((int(number[1]), outcome))
    for points in run.steps.values():
        points.sort(key=lambda point: point[0])
    for file in sorted((folder / TASKS).glob("*/result.json")):
        run.tasks[file.parent.name] = _outcome(file, file.with_name("predictions.jsonl.gz"))
    return run


def _outcomes(folder: Path) -> Iterator[Outcome]:
    """The yardsticks in a folder, and below it those of a reading that was asked for."""
    for file in sorted(folder.glob("*.json")) + sorted(folder.glob("reading-*/*.json")):
        of = _READING.fullmatch(file.parent.name)
        if file.parent == folder or of:
            yield _outcome(file, file.with_name(f"{file.stem}.items.jsonl.gz"), of[1] if of else None)


def _outcome(file: Path, items: Path, reading: str | None = None) -> Outcome:
    record = read_json(file)
    if "items_hash" not in record or not {"figure", "score"} & set(record):
        raise LmzooError(f"{file} is not what a yardstick or a task writes; remove it, or measure it again")
    return Outcome(file, record, items, reading)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        LmzooError: there is none in the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LmzooError(f"{path} cannot be read ({error}); leave the run out, or make it anew") from error
    if not isinstance(found, dict):
        raise LmzooError(f"{path} holds no object; leave the run out, or make it anew")
    return found


def _config(path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = loader(path.read_text(encoding="utf-8")).get_single_data()
        names = found["model"]["name"], found["objective"]["name"], found["data"]["source"]
        if not all(isinstance(name, str) for name in names) or not isinstance(found["seed"], int):
            raise KeyError
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LmzooError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    except (KeyError, TypeError):
        raise LmzooError(f"{path} is no run's config: it lacks model, objective, data or seed") from None
    return with_later_keys(found)


def searches(runs: Sequence[Run]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The learning rates tried for the arms, as the folders above the runs tell of them."""
    seen: set[Path] = set()
    for run in runs:
        for folder in list(run.folder.resolve().parents)[:2]:
            path = folder / SEARCH
            if path not in seen and path.is_file():
                arms = read_json(path).get("arms")
                if not isinstance(arms, dict):
                    raise LmzooError(f"{path} is not what a search writes: it has no arms")
                yield path, arms
            seen.add(path)
