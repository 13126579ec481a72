"""Checkpoints at log-spaced points of the budget, for curves of yardsticks (as in Pythia, Biderman et al. 2023).

Each is an export like the run's `model/`, so that every command opens it, with the ledger of its step beside the
weights::

    checkpoints/step-40/    config.json, model.safetensors, tokenizer files, ledger.json
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError

LEDGER = "ledger.json"
FOLDER = "checkpoints"


@dataclass(frozen=True)
class Snapshot:
    """One of them."""

    step: int
    model: Path
    """The folder of the export."""

    @property
    def name(self) -> str:
        return f"step-{self.step}"

    def ledger(self) -> dict[str, Any]:
        """What the run had cost by then, and under ``fraction`` the share of the budget that was spent."""
        return json.loads((self.model / LEDGER).read_text(encoding="utf-8"))


def fractions(count: int) -> list[float]:
    """1, 1/2, 1/4, … of the budget, ``count`` of them, the smallest first."""
    return [2.0**-power for power in reversed(range(count))]


def snapshots(folder: Path) -> list[Snapshot]:
    """The log-spaced checkpoints of a run folder, the first first; half-written ones left out."""
    found = []
    for path in (folder / FOLDER).glob("step-*"):
        number = re.fullmatch(r"step-(\d+)", path.name)
        if number and (path / LEDGER).is_file():
            found.append(Snapshot(int(number[1]), path))
    return sorted(found, key=lambda snapshot: snapshot.step)


def chosen(folder: Path, at: str) -> list[Snapshot]:
    """The log-spaced checkpoints that ``at`` names: `all`, or one by its step.

    Raises:
        LmzooError: there is none, or not that one.
    """
    there = snapshots(folder)
    if not there:
        raise LmzooError(
            f"{folder} has no log-spaced checkpoints; train with checkpoint.log_spaced=8, or leave at= out"
        )
    if at == "all":
        return there
    found = [snapshot for snapshot in there if at in (snapshot.name, str(snapshot.step))]
    if not found:
        steps = ", ".join(str(snapshot.step) for snapshot in there)
        raise LmzooError(f"at={at} is no checkpoint of {folder}; give all, or a step of: {steps}")
    return found
