"""A report on the disk: report.html, report.md, results.json, results.csv and the figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmzoo.analysis import drawing, wandb_report
from lmzoo.analysis.document import Document, Figure, Text, to_html, to_markdown
from lmzoo.analysis.figures import FIGURES, draw_all
from lmzoo.analysis.tables import document
from lmzoo.errors import LmzooError
from lmzoo.inference.sinks import whole
from lmzoo.tasks.result import finite

FILES = ("report.html", "report.md", "results.json", "results.csv")
COLUMNS = (
    *(
        "level",
        "section",
        "name",
        "kind",
        "unit",
        "arm",
        "run",
        "seed",
        "value",
        "low",
        "high",
        "interval_by",
    ),
    *("seeds", "matched"),
)
"""Of results.csv: level `run` is a figure of one run, `arm` the mean over its seeds."""


def write(
    results: Mapping[str, Any], folder: Path, advance: Callable[[int], object] = lambda count: None
) -> Document:
    """Write a report; a figure of an earlier one that there is none for now is removed.

    Args:
        results: as ``results.results_of`` gives them.
        folder: is made if need be.
        advance: told of each figure.

    Returns:
        the page.

    Raises:
        LmzooError: the folder cannot be made, or a file cannot be written.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FIGURES:
            for suffix in (".svg", ".png"):
                (folder / f"{name}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise LmzooError(
            f"to={folder} cannot be written to ({error.strerror}); give another folder"
        ) from error
    can_draw = drawing.possible()
    page = document(results, draw_all(results, folder, advance) if can_draw else [])
    if not can_draw:
        page.blocks.insert(0, Text(f"There are {drawing.NOTHING_TO_DRAW_WITH}.", strong=True))
    _text(folder / "report.html", to_html(page, folder))
    _text(folder / "report.md", to_markdown(page))
    _text(folder / "results.json", as_json(results))
    with whole(folder / "results.csv") as beside, beside.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        rows.writeheader()
        rows.writerows(lines_of(results))
    return page


def check_folder(folder: Path) -> None:
    """Refuse what is no folder before anything is computed.

    Raises:
        LmzooError: it is a file, or below one.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise LmzooError(f"to={folder}: {there} is a file; give a folder")


def as_json(results: Any) -> str:
    """Plain values as JSON; null for what is no number."""
    return json.dumps(finite(results), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _text(path: Path, text: str) -> None:
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def lines_of(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of results.csv: every figure of every run, the means of the arms, and the ledgers."""
    for cell in results["cells"]:
        head = {key: cell[key] for key in ("section", "name", "kind", "unit")}
        head["matched"] = cell["matching"]["matched"]
        for row in cell["rows"]:
            for run, seed, value in zip(row["runs"], row["seeds"], row["figures"], strict=True):
                yield {**head, "level": "run", "arm": row["arm"], "run": run, "seed": seed, "value": value}
            mean = {"value": row["mean"], "low": row["low"], "high": row["high"], "seeds": len(row["seeds"])}
            yield {**head, "level": "arm", "arm": row["arm"], "interval_by": row["method"], **mean}
    for run in results["runs"]:
        for name, value in run["ledger"].items():
            told = {"arm": run["arm"], "run": run["name"], "seed": run["seed"], "value": value}
            yield {"level": "run", "section": "ledger", "name": name, **told}


def wandb_spec(results: Mapping[str, Any], page: Document) -> dict[str, Any]:
    """The report for W&B, as plain values; pictures are panels there."""
    words = replace(page, blocks=[block for block in page.blocks if not isinstance(block, Figure)])
    return wandb_report.described(results, page.title, to_markdown(words))
