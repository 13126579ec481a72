"""`task=NAME` into its items: the YAML, the files, the parts, and what was counted on the way."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from lmzoo.errors import LmzooError
from lmzoo.places import data_root
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.describe import read_config
from lmzoo.tasks.examples import Example, Labelled, Tagged, TaskData
from lmzoo.tasks.files import Sources
from lmzoo.tasks.items import ItemReader
from lmzoo.tasks.splits import STOP_FRACTION, Item, cut, first_by_hash, seen_in_training
from lmzoo.yardsticks.base import hash_of


def load_task(
    task: str,
    root: Path | None,
    *,
    train: str | Path | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> TaskData:
    """Read a task and part its items.

    The scored part is the official one (`test` where that is what the literature reports, else `valid`), or
    cut from the training file by a hash where there is none. A tenth of the training part is kept for early
    stopping, by a hash too, so that it is the same for every model and seed. An official dev set is never
    trained on, and beside a scored test set it is not read.

    Args:
        task: a name in `conf/task/`, or a YAML file of the same keys.
        root: the folder that the YAML's files are relative to; by default the folder of a YAML of one's own,
            and for the others the one that ``LMZOO_DATA`` names.
        train, valid, test: files in place of the YAML's, from the working folder or else from ``root``; with
            ``valid`` alone, that one is scored. For a data set on the hub: the names of splits.
        limit: items of each part at most, those of the lowest hash, cut after the parts are made.
        seed: draws other training items for ``limit``; the parts, and what is scored, never depend on it.

    Raises:
        LmzooError: one line naming file and line, or the YAML and its key.
    """
    if limit is not None and limit < 1:
        raise LmzooError(f"limit={limit} leaves no item; give 1 or more")
    config, home = read_config(task)
    if root is None:
        root = data_root() if home is None and config.format != "hub" else home
    own = {"train": train, "valid": valid, "test": test}
    given = {name: str(value) for name, value in own.items() if value is not None}
    if "valid" in given and "test" not in given:
        config = replace(config, test=None)
    config = replace(config, **given)
    scored_part = "test" if config.test else "valid" if config.valid else "split"
    if scored_part == "split" and config.split is None:
        raise LmzooError(f"task={task} has nothing to score: give task.valid=, or `split: hash` in its YAML")

    sources = Sources(config, root, set(given))
    counts: Counter[str] = Counter()
    learned = _items(sources, "train", "train", counts)
    if scored_part == "split":
        learned, scored = cut(learned, "scored", config.split_fraction)
    else:
        scored = _items(sources, scored_part, "scored", counts)
    labels = _labels(config, learned)
    _check_scored(config, labels, learned, scored, counts)
    learned, stop = cut(learned, "stop", STOP_FRACTION)
    if limit is not None:
        before = len(learned) + len(stop) + len(scored)
        learned = first_by_hash(learned, limit, f"limit {seed}")
        stop, scored = first_by_hash(stop, limit, "limit"), first_by_hash(scored, limit, "limit")
        counts["left_out_by_limit"] = before - len(learned) - len(stop) - len(scored)
    same, sharing = seen_in_training([*learned, *stop], scored)
    counts["scored_also_in_train"] = same
    if config.shape in ("pair", "spans"):
        counts["scored_sharing_a_text_with_train"] = sharing

    examples = [item.example for item in scored]
    return TaskData(
        config=config,
        train=[item.example for item in learned],
        stop=[item.example for item in stop],
        scored=examples,
        scored_part=scored_part,
        labels=labels,
        counts={name: count for name, count in counts.items() if count},
        notes=_notes(config, scored_part, same),
        hash=hash_of(_without_id(example) for example in examples),
    )


def _items(sources: Sources, file: str, part: str, counts: Counter[str]) -> list[Item]:
    reader = ItemReader(sources.config, part, counts)
    made = [reader.item(where, values) for where, values in sources.read(file)]
    found = [item for item in made if item is not None]
    if not found:
        raise LmzooError(
            f"{getattr(sources.config, file)} leaves no item for task={sources.config.name}: all {len(made)} "
            f"were skipped ({', '.join(f'{name} {count}' for name, count in counts.items())}); mend it"
        )
    return found


def _without_id(example: Example) -> str:
    values = asdict(example)
    del values["id"]
    return json.dumps(values, ensure_ascii=False, sort_keys=True)


# ---------------------------------------------------------------------------------- labels


def _labels_of(example: Example) -> tuple[str, ...]:
    match example:
        case Labelled():
            return (str(example.label),)
        case Tagged():
            return example.tags
        case _:
            return ()


def _labels(config: TaskConfig, learned: list[Item]) -> list[str]:
    """All labels, from the YAML or the training part.

    Raises:
        LmzooError: training has one that the YAML does not name; there are fewer than two; the positive one
            is not among them.
    """
    if config.regression or config.shape == "spans":
        return []
    if config.labels is not None:
        for item in learned:
            for label in _labels_of(item.example):
                if label not in config.labels:
                    raise LmzooError(
                        f"{item.where}: the label {label!r} is not among the task's labels, "
                        f"{', '.join(config.labels)}; mend the line, or the task's labels"
                    )
        return list(config.labels)
    labels = sorted({label for item in learned for label in _labels_of(item.example)})
    if len(labels) < 2:
        raise LmzooError(
            f"task={config.name}: the training part has one label alone, {labels[0]!r}: nothing to learn"
        )
    if config.positive is not None and config.positive not in labels:
        raise LmzooError(
            f"task={config.name}: positive: {config.positive} is not among the labels of the training part, "
            f"{', '.join(labels)}"
        )
    return labels


def _check_scored(
    config: TaskConfig, labels: list[str], learned: list[Item], scored: list[Item], counts: Counter[str]
) -> None:
    """Refuse labels of the scored part that no model can give; tags that training lacks are counted.

    A tag is one of many in its item: it stays, and whatever is predicted there is wrong.

    Raises:
        LmzooError: naming the label, the first item and how many items have it.
    """
    if not labels:
        return
    trained = {label for item in learned for label in _labels_of(item.example)}
    unknown: dict[str, list[str]] = {}
    for item in scored:
        for label in _labels_of(item.example):
            if label not in trained:
                unknown.setdefault(label, []).append(item.where)
    for label, places in unknown.items():
        if config.shape == "tagging" or label in labels:
            counts["scored_labels_never_trained"] += len(places)
        else:
            raise LmzooError(
                f"{places[0]}: the label {label!r} ({_items_of(len(places))} of the scored part) does not "
                f"occur in training, which has {', '.join(sorted(trained))}; mend it, or name all in the "
                "task's labels, or this one in its skip_labels"
            )


def _items_of(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


# ---------------------------------------------------------------------------------- notes


def _notes(config: TaskConfig, scored_part: str, same: int) -> list[str]:
    """What a reader of the score must know."""
    notes = []
    if scored_part == "split":
        by = "the item" if config.split == "hash" else f"the column {config.split}"
        share = f"{100 * config.split_fraction:g} % of {config.train}"
        notes.append(f"no official part: {share} is scored, cut off by a hash of {by}")
    if scored_part == "test" and config.valid:
        notes.append(f"scored on {config.test}; {config.valid} is not used")
    if same:
        notes.append(f"{_items_of(same)} of the scored part also in the training part")
    for name in config.overlaps:
        notes.append(f"the pretraining file {name} is this task's own text, seen by a model trained on it")
    return notes
