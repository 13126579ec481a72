"""`python -m lmzoo.compare`: from runs to a report on which objective pays, and how far that is known."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lmzoo import cli
from lmzoo.arguments import parse
from lmzoo.errors import LmzooError
from lmzoo.progress import console


@dataclass
class Compare:
    """Compare runs: what differs, what each cost, every yardstick with its interval, and who is better.

    Writes report.html (one file that needs no network), report.md, results.json, results.csv and the figures
    as SVG and PNG. Runs that differ in seed alone are one arm. What may not be ranked is kept apart, and
    arms that are not matched in budget and size are said to be so, with the ratio. Refused by name: a folder
    that is no run, a run that is not finished, yardsticks taken on different data.
    docs/compare.md says how intervals and verdicts are made."""

    examples: ClassVar[str] = """\
        lmzoo compare runs='multirun/DATE/TIME/*' to=report
        lmzoo compare runs=[outputs/A,outputs/B,'multirun/DATE/*/*'] to=report unfinished=true"""

    runs: list[str]
    """Run folders and patterns, one or several; of what a pattern names, folders that are no runs are passed
    over, and counted."""
    to: str
    """The folder to write."""
    unfinished: bool = False
    """Take runs that are not finished as they are."""
    seed: int = 0
    """Of the draws of bootstraps and permutation tests."""
    wandb_report: bool = field(default=False, metadata={"key": "wandb.report"})
    """The same as a W&B report: published where you are logged in, else written as wandb_report.json."""


def main(argv: list[str] | None = None) -> None:
    """Write the report that the command line asks for.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    with cli.one_line():
        argv = list(sys.argv[1:] if argv is None else argv)
        wanted = parse(argv, "compare", Compare)
        if wanted is None:
            return
        from lmzoo.analysis import drawing

        found = compare(
            wanted.runs,
            wanted.to,
            unfinished=wanted.unfinished,
            seed=wanted.seed,
            wandb_report=wanted.wandb_report,
        )
        print(told(found, Path(wanted.to).expanduser()), flush=True)
        if not drawing.possible():
            console.print(drawing.NOTHING_TO_DRAW_WITH, soft_wrap=True, markup=False, highlight=False)
        if wanted.wandb_report:
            print(_on_wandb(Path(wanted.to).expanduser(), argv), flush=True)


def compare(
    runs: str | Path | Sequence[str | Path],
    to: str | Path | None = None,
    *,
    unfinished: bool = False,
    seed: int = 0,
    wandb_report: bool = False,
) -> dict[str, Any]:
    """Compare runs, and write a report.

    Args:
        runs: run folders and patterns.
        to: the folder to write; None writes nothing.
        unfinished: take runs that are not finished as they are.
        seed: of all draws; the same runs and seed give the same files.
        wandb_report: write the report for W&B too; nothing is sent anywhere.

    Returns:
        what results.json holds; docs/compare.md lists the keys.

    Raises:
        LmzooError: what the command refuses.
    """
    from lmzoo.analysis.records import read_runs
    from lmzoo.analysis.results import PARTS, results_of
    from lmzoo.inference.sources import slow_progress

    folder = None if to is None else Path(to).expanduser()
    if folder is not None:
        from lmzoo.analysis.report import check_folder

        check_folder(folder)
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    found = read_runs(given, unfinished=unfinished)
    with slow_progress("comparing", PARTS + _DRAWING) as advance:
        results = results_of(found, seed, advance)
        if folder is not None:
            from lmzoo.analysis.figures import FIGURES
            from lmzoo.analysis.report import as_json, wandb_spec, write
            from lmzoo.analysis.wandb_report import NAME
            from lmzoo.inference.sinks import whole

            page = write(results, folder, lambda count: advance(_DRAWING // len(FIGURES)))
            if wandb_report:
                with whole(folder / NAME) as beside:
                    beside.write_text(as_json(wandb_spec(results, page)), encoding="utf-8")
    return results


_DRAWING = 300
"""What drawing takes, where computing takes ``PARTS``."""


def told(results: dict[str, Any], folder: Path) -> str:
    """The end of the command."""
    from lmzoo.analysis.wording import SIGNS, interval, many, number

    arms = results["arms"]
    lines = [f"{many(len(results['runs']), 'run')} of {many(len(arms), 'arm')}: {', '.join(arms)}"]
    for pattern, n in results["passed_over"].items():
        lines.append(f"passed over, of what {pattern} names: {many(n, 'folder')} without a run")
    lines.append(results["matching"]["head"])
    settled, still = [], 0
    for cell in results["cells"]:
        for each in cell["comparisons"]:
            if each["verdict"] in ("better", "worse"):
                unit = cell["unit"]
                effect = number(each["difference"], unit, signed=True)
                bounds = interval(each["low"], each["high"], unit, signed=True)
                scope = "" if each["about"] == "the arms" else ", these runs alone"
                settled.append(
                    f"  {SIGNS[each['verdict']]}  {cell['name']}: {each['arm']} against {each['against']} "
                    f"{effect} {bounds} {unit}{scope}"
                )
            still += each["verdict"] == "inconclusive"
    if settled or still:
        lines += ["", *settled[:_MOST_LINES]]
        if len(settled) > _MOST_LINES:
            lines.append(f"  and {len(settled) - _MOST_LINES} more")
        lines.append(f"  inconclusive: {many(still, 'comparison')}")
    return "\n".join([*lines, "", f"report  {folder / 'report.html'}"])


_MOST_LINES = 20


def _on_wandb(folder: Path, argv: Sequence[str]) -> str:
    """Publish the report where there is a login; a line that says what became of it."""
    from lmzoo.analysis.records import read_json
    from lmzoo.analysis.wandb_report import NAME, logged_in, publish

    if not logged_in():
        again = shlex.join(["lmzoo", "compare", *argv])
        how = f"To publish it: wandb login && {again}"
        return f"W&B     no login is found; the report is in {folder / NAME}. {how}"
    try:
        return f"W&B     {publish(read_json(folder / NAME))}"
    except LmzooError as error:
        raise LmzooError(f"{error}; everything else is in {folder}") from error


if __name__ == "__main__":
    main()
