"""What may be compared with what, and what is kept apart, with the reason.

A causal loss, a masked loss and a biLM's losses answer different questions: no cell holds two of them. Bits
per byte rank causal models, pseudo-log-likelihoods masked ones; minimal pairs, probes and fine-tuning all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from lmzoo.analysis.arms import flat
from lmzoo.analysis.cells import (
    Apart,
    Arms,
    Cell,
    Lacking,
    Sorted,
    arms_of,
    cell_of,
    controls_of,
    figures_in_words,
    parted,
    refuse_other_items,
    taken_by_name,
    unlike,
)
from lmzoo.analysis.records import Outcome, Run
from lmzoo.analysis.wording import in_full
from lmzoo.summary import PART_NAMES, constant_rate, part_of

DESCRIBES = {"contextuality": "how far vectors depend on their contexts describes a model and is no merit"}
"""Yardsticks that rank nobody, and why."""
_CHOSEN = (
    *("lr", "lrs", "rates", "seeds", "random_seeds", "random_control", "static_control"),
    *("device", "precision", "cache_dir", "features_gigabytes", "files", "context"),
)
"""Settings of a task that may differ within a cell: what is chosen for each run, and what changes nothing."""


def sort(arms: Arms) -> Sorted:
    """Put the figures of all runs into cells.

    Raises:
        LmzooError: a yardstick or a task was taken on different items, naming it and the runs.
    """
    found = Sorted()
    _yardsticks(arms, found)
    _tasks(arms, found)
    _losses(arms, found)
    return found


# ---------------------------------------------------------------------------------- yardsticks


def _yardsticks(arms: Arms, found: Sorted) -> None:
    for name, taken in taken_by_name(arms, _read_so_by_itself(arms)).items():
        known = [(run, outcome) for run, outcome in taken if outcome.record["figure"] is not None]
        refuse_other_items(name, known)
        for run, outcome in taken:
            lacking = Lacking(name, run.arm, str(outcome.record.get("reason") or "there is no figure"))
            if outcome.record["figure"] is None and lacking not in found.lacking:
                found.lacking.append(lacking)
        groups = parted(
            name,
            known,
            lambda _, outcome: ((outcome.record["kind"], outcome.record["unit"]), outcome.record["kind"]),
            "figures of these kinds answer different questions; none is ranked against one of another kind",
            found,
        )
        for kind, members in groups:
            found.cells.append(_yardstick(name, kind, members))


def _read_so_by_itself(arms: Arms) -> Callable[[Run], Mapping[str, Outcome]]:
    """What gives a run's yardsticks; beside those of a reading that was asked for, under the same name, the same
    yardstick on the same items of models that read so by themselves: a causal one as `past`, a masked one and a
    hybrid one as `full`. Figures alone are put beside each other: what is without one is told of under its own name.
    """
    asked: dict[str, Outcome] = {}
    for run in (run for runs in arms.values() for run in runs):
        for name, outcome in run.evaluations.items():
            if outcome.reading is not None and outcome.record["figure"] is not None:
                asked.setdefault(name, outcome)

    def of(run: Run) -> dict[str, Outcome]:
        found = dict(run.evaluations)
        for name, other in asked.items():
            own = run.evaluations.get(other.yardstick)
            if name in found or own is None or own.record["figure"] is None:
                continue
            reads = own.record.get("reading") or run.config.get("context")
            if reads == other.reading and own.record["items_hash"] == other.record["items_hash"]:
                found[name] = own
        return found

    return of


def _yardstick(name: str, kind: str, members: Sequence[tuple[Run, Outcome]]) -> Cell:
    record = members[0][1].record
    cell = cell_of(
        "yardstick", name, kind, str(record["unit"]), bool(record["higher_is_better"]), members, "figure"
    )
    cell.controls = controls_of(members, _beside_yardstick)
    yardstick = members[0][1].yardstick
    if yardstick in DESCRIBES:
        cell.merit = False
        cell.notes.append(DESCRIBES[yardstick])
    cell.reading = next((outcome.reading for _, outcome in members if outcome.reading is not None), None)
    if cell.reading is not None:
        same = arms_of((run, outcome) for run, outcome in members if outcome.reading is None)
        if same:
            cell.notes.append(f"read so by itself, with the figure of {yardstick}: {', '.join(same)}")
    published = (record.get("parts") or {}).get("published", {}).get("overall") or (
        record.get("settings") or {}
    ).get("published")
    if published:
        cell.notes.append(f"published: {figures_in_words(published)}")
    lacking = dict.fromkeys((run.arm, reason) for run, outcome in members if (reason := _no_ngram(outcome)))
    cell.notes += [f"{arm}: no n-gram control, as {reason}" for arm, reason in lacking]
    cell.notes += unlike(members, "precision", "measured in")
    return cell


def _beside_yardstick(record: dict[str, Any]) -> dict[str, float]:
    parts = record.get("parts") or {}
    found = {}
    if isinstance(parts.get("chance"), int | float):
        found["chance"] = float(parts["chance"])
    ngram = parts.get("ngram") or {}
    if ngram.get("figure") is not None:
        found[f"{ngram['order']}-gram of its text"] = float(ngram["figure"])
    for name, figure in (parts.get("controls") or {}).items():
        if isinstance(figure, int | float):
            found[name.replace("_", " ")] = float(figure)
    return found


def _no_ngram(outcome: Outcome) -> str | None:
    ngram = (outcome.record.get("parts") or {}).get("ngram") or {}
    return ngram.get("reason") if ngram.get("figure") is None else None


# ---------------------------------------------------------------------------------- tasks


def _tasks(arms: Arms, found: Sorted) -> None:
    for name, taken in taken_by_name(arms, lambda run: run.tasks).items():
        known = [(run, outcome) for run, outcome in taken if outcome.record["score"] is not None]
        refuse_other_items(name, known)
        found.lacking += [
            Lacking(name, arm, "its score has no meaning for these predictions")
            for arm in arms_of(each for each in taken if each[1].record["score"] is None)
        ]
        groups = parted(
            name,
            known,
            _settings_of_task,
            "the task was learned with other settings; see each run's result.json",
            found,
        )
        for _, members in groups:
            found.cells.append(_task(name, members))


def _settings_of_task(run: Run, outcome: Outcome) -> tuple[Hashable, str]:
    config = {k: v for k, v in (outcome.record.get("config") or {}).items() if k not in _CHOSEN}
    return json.dumps([outcome.record.get("metric"), config], sort_keys=True), f"as in {run.name}"


def _task(name: str, members: Sequence[tuple[Run, Outcome]]) -> Cell:
    record = members[0][1].record
    metric = str(record.get("metric"))
    cell = cell_of("task", name, metric, f"{metric.replace('_', ' ')} × 100", True, members, "score")
    cell.controls = controls_of(members, _beside_task)
    contexts: dict[str, list[str]] = {}
    for run, outcome in members:
        seen = ((outcome.record.get("config") or {}).get("context") or {}).get("finetuned")
        if seen and run.arm not in contexts.setdefault(str(seen), []):
            contexts[str(seen)].append(run.arm)
    if contexts:
        told = "; ".join(f"{seen} in {', '.join(several)}" for seen, several in contexts.items())
        cell.notes.append(f"context in the task: {told} (published answers turn on it)")
    seeds = {len(outcome.record.get("seeds") or []) for _, outcome in members}
    cell.notes.append(
        f"a run's figure is the mean of {' or '.join(map(str, sorted(seeds)))} trainings of the task; "
        "the seeds counted here are those of pretraining"
    )
    if record.get("references"):
        cell.notes.append(f"published: {figures_in_words(record['references'])}")
    return cell


def _beside_task(record: dict[str, Any]) -> dict[str, float]:
    found, metric = {}, str(record.get("metric"))
    for name, control in (record.get("controls") or {}).items():
        figure = control.get("score", control.get(metric))
        if isinstance(figure, int | float):
            found[name.replace("_", " ")] = float(figure)
    return found


# ---------------------------------------------------------------------------------- losses


def _losses(arms: Arms, found: Sorted) -> None:
    """Losses by part of an objective, on one text, tokenizer, view and length: then they are of one question.

    A part is compared, not the sum: the masked tokens of MLM with and without NSP are the same ones.
    """
    by_part: dict[tuple[str, str], list[tuple[Run, float]]] = {}
    for runs in arms.values():
        for run in runs:
            for split in ("valid", "test"):
                for key, value in ((run.metrics or {}).get(split) or {}).items():
                    if key.endswith("_loss") and isinstance(value, int | float) and math.isfinite(value):
                        part = part_of(run.config["objective"]["name"], key.removesuffix("_loss"))
                        by_part.setdefault((split, part), []).append((run, float(value)))
    for split in ("valid", "test"):
        parts = {part: members for (where, part), members in by_part.items() if where == split}
        if len(parts) > 1:
            groups = {in_full(part): arms_of(members) for part, members in parts.items()}
            reason = (
                "they answer different questions; read each against the unigram entropy, not against another"
            )
            found.apart.append(Apart(f"{split} losses", groups, reason))
        for part, members in parts.items():
            found.cells += _loss(split, part, members, found)


def _loss(split: str, part: str, members: Sequence[tuple[Run, float]], found: Sorted) -> list[Cell]:
    groups: dict[Hashable, list[tuple[Run, float]]] = {}
    for run, value in members:
        groups.setdefault(_text_of(run), []).append((run, value))
    name = f"{split} {PART_NAMES.get(part, part)}"
    if len(groups) > 1:
        told = {f"as in {each[0][0].name}": arms_of(each) for each in groups.values()}
        reason = (
            "the text, the tokenizer, the view or the length of a row is another, and so are the predictions"
        )
        if any(run.content is None for run, _ in members) and any(run.content for run, _ in members):
            reason += (
                "; or it is not known to be the same, as a run of an earlier version does not tell its text"
            )
        found.apart.append(Apart(f"{name} loss", told, reason))
    cells = []
    for each in groups.values():
        cell = Cell("loss", f"{name} loss", part, "nats a prediction", False, {})
        for run, value in each:
            cell.figures.setdefault(run.arm, []).append((run, value))
            figures = (run.metrics or {}).get(split) or {}
            entropy = figures.get("unigram_entropy")
            if entropy is not None and constant_rate(figures, part) is None:
                cell.controls.setdefault("unigram entropy", {})[run.arm] = float(entropy)
        cells.append(cell)
    return cells


def _text_of(run: Run) -> Hashable:
    """What decides which tokens are predicted: the prepared text, and how rows are cut of it."""
    parts = {k: v for k, v in run.config.items() if k in ("data", "tokenizer")}
    text = run.content or json.dumps(flat(parts), sort_keys=True, default=str)
    data = run.config["data"]
    return text, data.get("view"), data.get("short_pairs"), run.config.get("seq_len")
