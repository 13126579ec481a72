"""The same report for W&B: as plain values that can be kept, and built of them where the package for it is.

Building asks no server; publishing needs a login.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from lmzoo.analysis.curves import COSTS
from lmzoo.errors import LmzooError
from lmzoo.summary import logged_as

NAME = "wandb_report.json"
AXES = {"tokens": "train/tokens_seen", "flops": "ledger/flops", "seconds": "ledger/seconds"}
"""The names that runs log costs under. FLOPs and seconds are logged at the end of a run alone."""
_PROJECT = "lmzoo"


def described(results: Mapping[str, Any], title: str, markdown: str) -> dict[str, Any]:
    """The report as plain values.

    Args:
        results: as ``results.results_of`` gives them.
        title: of the page.
        markdown: the page's text and tables, without pictures.

    Returns:
        title, project, entity, and blocks: ``markdown`` with a text, and ``panels`` with the groups of runs
        that they are over (none: all of the project) and what is drawn.
    """
    places = results["wandb"]
    parts = list(dict.fromkeys(each["part"] for each in results["losses"]))
    losses = [
        {
            "kind": "line",
            "title": f"{part} loss",
            "x": AXES["tokens"],
            "y": [f"{split}/{logged_as(part)}_loss" for split in ("train", "valid")],
        }
        for part in parts
    ]
    yardsticks = [each for each in results["cells"] if each["section"] == "yardstick"]
    # a reading that was asked for is measured after the run, and no run has logged it
    names = list(dict.fromkeys(each["name"] for each in yardsticks if each["reading"] is None))
    bars = [{"kind": "bar", "title": name, "metrics": [f"evaluation/{name}"]} for name in names]
    against = [
        {
            "kind": "scatter",
            "title": f"{name} against {COSTS[cost]}",
            "x": AXES[cost],
            "y": f"evaluation/{name}",
        }
        for name in names
        for cost in ("flops", "seconds")
    ]
    return {
        "title": title,
        "project": (places["project"] or [_PROJECT])[0],
        "entity": (places["entity"] or [None])[0],
        "blocks": [
            {"kind": "markdown", "text": markdown},
            {
                "kind": "panels",
                "groups": places["group"],
                "panels": [*losses, *bars, *against, {"kind": "comparer"}],
            },
        ],
    }


def build(spec: Mapping[str, Any]) -> Any:
    """The report as wandb-workspaces has it; asks no server.

    Raises:
        LmzooError: the package is not installed.
    """
    try:
        wr: Any = import_module("wandb_workspaces.reports.v2")  # whose names are its own by convention alone
    except ImportError:
        raise LmzooError(
            "wandb-workspaces is not installed: W&B reports need pip install 'lmzoo[report]'"
        ) from None

    def panel(told: Mapping[str, Any]) -> Any:
        match told["kind"]:
            case "line":
                return wr.LinePlot(title=told["title"], x=told["x"], y=told["y"])
            case "bar":
                return wr.BarPlot(title=told["title"], metrics=told["metrics"])
            case "scatter":
                return wr.ScatterPlot(title=told["title"], x=told["x"], y=told["y"])
            case _:
                return wr.RunComparer(diff_only="split")

    def runset(group: str | None) -> Any:
        given = {"name": group or "all runs", "filters": f"Metric('group') == {group!r}" if group else ""}
        return wr.Runset(project=spec["project"], entity=spec["entity"] or "", **given)

    blocks: list[Any] = []
    for block in spec["blocks"]:
        if block["kind"] == "markdown":
            blocks.append(wr.MarkdownBlock(text=block["text"]))
        else:
            runsets = [runset(group) for group in block["groups"] or [None]]
            blocks.append(wr.PanelGrid(runsets=runsets, panels=[panel(each) for each in block["panels"]]))
    return wr.Report(project=spec["project"], entity=spec["entity"] or "", title=spec["title"], blocks=blocks)


def logged_in() -> bool:
    """Whether W&B may be asked: a key is found, and nobody has said `offline`. Never asks a question."""
    import wandb

    if os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled"):
        return False
    if wandb.setup(wandb.Settings(silent=True)).settings.mode in ("offline", "disabled"):
        return False
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.Error:
        return False


def publish(spec: Mapping[str, Any]) -> str:
    """Put the report on W&B; gives its address.

    Raises:
        LmzooError: the package is not installed, or the server refuses or cannot be reached.
    """
    report = build(spec)
    try:
        report.save()
    except Exception as error:  # whatever its client raises: there is no one class
        raise LmzooError(
            f"the W&B report could not be saved ({str(error).splitlines()[0]}); it is in {NAME}"
        ) from error
    return str(report.url)
