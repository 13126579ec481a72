"""Every benchmark, one after the other, each in a process of its own: a JSON each, and an overview.

A benchmark that fails does not keep the next from running; the status is then 1. How long each takes stands
in benchmarks/README.md. To run some of them, name them: ``python -m benchmarks.all data inference``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT
from lmzoo.progress import console

NAMES = ("step", "trainer", "data", "shards", "inference", "recipes", "blimp", "scale")


@dataclass(frozen=True)
class Outcome:
    """What became of one benchmark."""

    name: str
    status: int
    seconds: float
    json: Path

    @property
    def word(self) -> str:
        if self.status:
            return f"**failed** (status {self.status})"
        return "done" if self.json.is_file() else "skipped"  # what it could not find it has said itself

    @property
    def tables(self) -> list[str]:
        """Titles of what it measured."""
        if self.status or not self.json.is_file():
            return []
        return list(json.loads(self.json.read_text(encoding="utf-8"))["tables"])


def main(arguments: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    made.add_argument("--json-folder", type=Path, default=Path("results"), help="where the JSON files go")
    made.add_argument("--rounds", type=int, help="turns of each contestant; each has its own default")
    made.add_argument("--quick", action="store_true", help="small and few: to see that it runs, not to quote")
    options = made.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        made.error(f"there is no benchmark {unknown[0]}; choose of {', '.join(NAMES)}")
    names = [name for name in NAMES if name in options.names] if options.names else NAMES
    passed_on = ["--quick"] * options.quick
    if options.rounds is not None:
        passed_on += ["--rounds", str(options.rounds)]
    outcomes = [run(name, options.json_folder.absolute(), passed_on) for name in names]
    show(outcomes)
    if any(outcome.status for outcome in outcomes):
        sys.exit(1)


def run(name: str, folder: Path, passed_on: list[str]) -> Outcome:
    """One benchmark, which says what it finds as it goes."""
    path = folder / f"{name}.json"
    path.unlink(missing_ok=True)  # one of an earlier time is no result of this one
    console.rule(f"benchmarks.{name}", align="left")
    print(f"\n## {name}", flush=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path), *passed_on]
    status = subprocess.run(command, cwd=ROOT).returncode
    return Outcome(name, status, time.perf_counter() - began, path)


def show(outcomes: list[Outcome]) -> None:
    """A line a benchmark, and what it measured."""
    print("\n## overview\n\n| benchmark | outcome | minutes | tables | figures in |\n|---|---|---|---|---|")
    for outcome in outcomes:
        where = str(outcome.json) if outcome.tables else "–"
        minutes = f"{outcome.seconds / 60:.1f}"
        cells = (outcome.name, outcome.word, minutes, "; ".join(outcome.tables) or "–", where)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
