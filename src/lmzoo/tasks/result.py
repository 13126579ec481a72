"""What a probe or a fine-tuning leaves: result.json, its predictions, a picture of the mixture, a table."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.inference.sinks import whole
from lmzoo.summary import ABSENT
from lmzoo.tasks.examples import Example, Question, Tagged, TaskData
from lmzoo.tasks.settings import Settings, variant_of

FOLDER = "finetune"
"""In the run folder."""
RESULT, PREDICTIONS, MIXTURE = "result.json", "predictions.jsonl.gz", "mixture.svg"


@dataclass
class SeedResult:
    """One training."""

    seed: int
    metrics: dict[str, float | None]
    """On the scored part; the first is the headline. None where one has no meaning."""
    lr: float
    epochs: int
    best_epoch: int
    stop_score: float | None
    predictions: list[Any]
    mixture: dict[str, Any] = field(default_factory=dict)
    """γ and s of each layer, where they were learned."""
    layer: int | None = None
    """Which layer, where it was chosen on the part for stopping."""

    @property
    def score(self) -> float | None:
        return next(iter(self.metrics.values()))

    def told(self) -> dict[str, Any]:
        """As it stands in result.json."""
        found: dict[str, Any] = {
            "seed": self.seed,
            "score": self.score,
            "metrics": self.metrics,
            "lr": self.lr,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "stop_score": self.stop_score,
        }
        if self.layer is not None:
            found["layer"] = self.layer
        return found | ({"mixture": self.mixture} if self.mixture else {})


@dataclass
class Result:
    """All trainings of one task, mode and model."""

    task: str
    mode: str
    variant: str
    metric: str
    seeds: list[SeedResult]
    scored_part: str
    items: int
    items_hash: str
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Metrics of each; the trained ones with one entry a seed."""
    by_layer: dict[str, list[float | None]] = field(default_factory=dict)
    """layers=each: the headline of every layer alone, one a seed."""
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    references: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    random: list[SeedResult] = field(default_factory=list)
    """The same architecture with random weights."""

    @property
    def score(self) -> float | None:
        """The mean headline over the seeds."""
        return mean_of([entry.score for entry in self.seeds])

    def told(self) -> dict[str, Any]:
        """As it stands in result.json."""
        return {
            "task": self.task,
            "mode": self.mode,
            "variant": self.variant,
            "metric": self.metric,
            "score": self.score,
            "deviation": deviation([entry.score for entry in self.seeds]),
            "seeds": [entry.told() for entry in self.seeds],
            "controls": self.controls,
            "by_layer": self.by_layer,
            "scored_part": self.scored_part,
            "items": self.items,
            "items_hash": self.items_hash,
            "counts": self.counts,
            "notes": self.notes,
            "references": self.references,
            "model": self.model,
            "config": self.config,
            "seconds": self.seconds,
        }


def mean_of(scores: Sequence[float | None]) -> float | None:
    """The mean over seeds; None where one of them has no score."""
    known = [score for score in scores if score is not None]
    return fmean(known) if len(known) == len(scores) else None


def deviation(scores: Sequence[float | None]) -> float | None:
    """Standard deviation over seeds; None of one, or where one of them has no score."""
    known = [score for score in scores if score is not None]
    return stdev(known) if len(known) == len(scores) > 1 else None


def folder_of(place: Path, task: str, mode: str, variant: str) -> Path:
    """``PLACE/finetune/TASK-MODE[-VARIANT]``."""
    return place / FOLDER / "-".join(part for part in (task, mode, variant) if part)


def place_of(place: Path, task: str, settings: Settings, files: Mapping[str, str | None]) -> Path:
    """Where a result goes that nobody has named a folder for.

    Args:
        place: the run folder.
        task: the task's name.
        settings: what is not at its default is part of the name.
        files: given in place of the task's own, by part; so are their names.
    """
    named = [f"{part}_{Path(path).name.split('.')[0]}" for part, path in files.items() if path]
    return folder_of(place, task, settings.mode, "-".join(filter(None, (variant_of(settings), *named))))


def check_folder(folder: Path) -> None:
    """Refuse a place that cannot be written to before anything is trained.

    Raises:
        LmzooError: it is a file, or lies where nobody may write.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "may not be written to" if there.is_dir() else "is a file"
        raise LmzooError(f"{there} {reason}, so the result cannot lie in {folder}; give another to=")


def gold_of(item: Example) -> Any:
    """What is right for an item, as plain values."""
    if isinstance(item, Tagged):
        return list(item.tags)
    if isinstance(item, Question):
        return [text for text, _ in item.answers]
    return item.label


def save(folder: Path, result: Result, data: TaskData) -> Path:
    """Write result.json, its predictions and, where one was learned, a picture of the mixture.

    Each prediction has the item's id, what is right, one prediction a seed, and under ``random`` one a seed
    of the random control.

    Returns:
        the path of result.json.

    Raises:
        LmzooError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LmzooError(f"{folder} cannot be made ({error.strerror}); give another to=") from error
    # the predictions first: a score never stands without them
    with whole(folder / PREDICTIONS) as beside, gzip.GzipFile(beside, "wb", mtime=0) as file:
        for place, item in enumerate(data.scored):
            line = {
                "id": item.id,
                "gold": gold_of(item),
                "predicted": [entry.predictions[place] for entry in result.seeds],
            }
            if result.random:
                line["random"] = [entry.predictions[place] for entry in result.random]
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    picture = folder / MIXTURE
    if not (any(entry.mixture for entry in result.seeds) and draw_mixture(picture, result)):
        picture.unlink(missing_ok=True)
    with whole(folder / RESULT) as beside:
        text = json.dumps(finite(result.told()), ensure_ascii=False, indent=2, allow_nan=False)
        beside.write_text(text + "\n", encoding="utf-8")
    return folder / RESULT


def finite(value: Any) -> Any:
    """The same with null for what is no number: JSON has no word for it."""
    if isinstance(value, Mapping):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_mixture(path: Path, result: Result) -> bool:
    """Draw s by layer, a point a seed, γ in the legend; only where matplotlib is installed.

    Returns:
        whether it was.
    """
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = [name for name in ("input", "output") if name in result.seeds[0].mixture]
    figure = Figure(figsize=(4.2 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        mixtures = [entry.mixture[name] for entry in result.seeds]
        layers = range(len(mixtures[0]["s"]))
        axes.bar(
            layers, [fmean(mixture["s"][layer] for mixture in mixtures) for layer in layers], color="0.85"
        )
        for entry, mixture in zip(result.seeds, mixtures, strict=True):
            axes.plot(layers, mixture["s"], "o", label=f"seed {entry.seed}, γ = {mixture['gamma']:.2f}")
        axes.set_xticks(list(layers))
        axes.set_xlabel("layer (0 is the embedding)")
        axes.set_ylabel("s")
        axes.set_title(f"{result.task}: mixture at the {name}", fontsize="medium")
        axes.legend(fontsize="small")
    with whole(path) as beside:
        FigureCanvasSVG(figure).print_svg(beside)
    return True


def table(result: Result, place: Path) -> str:
    """The end of the command, for a terminal or a file."""
    model, seen = result.model, result.config["context"]["finetuned"]
    head = f"{result.task} · {result.mode} · {model['name']} {model['objective']} · context {seen}"
    metrics = list(result.seeds[0].metrics)
    lines: list[tuple[str, list[str]]] = [("", metrics)]
    lines.append((_seeds("this model", len(result.seeds)), _row([e.metrics for e in result.seeds], metrics)))
    for name, control in result.controls.items():
        several = [entry["metrics"] for entry in control["seeds"]] if "seeds" in control else [control]
        told = name.replace("_", " ")
        lines.append((_seeds(told, len(several)) if "seeds" in control else told, _row(several, metrics)))
    wide = max(len(left) for left, _ in lines)
    columns = [max(len(row[i]) for _, row in lines) for i in range(len(metrics))]
    shown = [
        "  ".join(
            [f"{left:<{wide}}", *(f"{cell:>{width}}" for cell, width in zip(row, columns, strict=True))]
        )
        for left, row in lines
    ]
    parts = [head, "", *(line.rstrip() for line in shown)]
    if result.by_layer:
        means = {layer: mean_of(scores) for layer, scores in result.by_layer.items()}
        told = [f"{layer}: {ABSENT if mean is None else f'{mean:.4g}'}" for layer, mean in means.items()]
        parts += ["", f"{metrics[0]} by layer  " + "  ".join(told)]
    mixtures = [entry.mixture["input"] for entry in result.seeds if "input" in entry.mixture]
    if mixtures:
        shares = [fmean(mix["s"][layer] for mix in mixtures) for layer in range(len(mixtures[0]["s"]))]
        gamma = fmean(mix["gamma"] for mix in mixtures)
        parts += ["", f"mixture  γ {gamma:.3g}  s " + " ".join(f"{share:.3f}" for share in shares)]
    counted = [f"{count:,} {name.replace('_', ' ')}" for name, count in result.counts.items() if count]
    if counted:
        parts += ["", "counts  " + "; ".join(counted)]
    parts += [f"note  {note}" for note in result.notes]
    parts += [
        "",
        f"{result.items:,} item{'' if result.items == 1 else 's'} of the {result.scored_part} part, "
        f"{result.seconds:.0f} s",
        f"result  {place}",
    ]
    return "\n".join(parts)


def _seeds(name: str, count: int) -> str:
    return f"{name} ({count} seed{'' if count == 1 else 's'})"


def _row(several: Sequence[Mapping[str, float | None]], metrics: Sequence[str]) -> list[str]:
    cells = []
    for name in metrics:
        values = [value for entry in several if (value := entry.get(name)) is not None]
        known = len(values) == len(several)
        spread = deviation(values) if known else None
        told = f"{fmean(values):.4g}" if values and known else ABSENT
        cells.append(told if spread is None else f"{told} ± {spread:.2g}")
    return cells
