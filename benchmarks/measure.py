"""What every benchmark shares: turns, medians with their range, the matmul peak, tables and JSON.

A benchmark is `python -m benchmarks.NAME`. Its contestants take turns in rounds, so that a stall of the
machine hits all of them; what is told is the median with the range, never one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lmzoo.ledger import peak_memory_bytes
from lmzoo.progress import console, progress

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
"""The corpora that this project's figures are quoted on; a benchmark that needs them skips without."""
BOOKS = {part: SHARED / "pretrain" / f"books.{part}.txt.gz" for part in ("train", "valid")}


@dataclass(frozen=True)
class Sample:
    """Several measurements of one thing, in the order in which they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def per(self, amount: float) -> Sample:
        """The same as rates: ``amount`` over each value."""
        return Sample(tuple(amount / value for value in self.values))

    def times(self, factor: float) -> Sample:
        return Sample(tuple(value * factor for value in self.values))

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{figure(self.median)} ({figure(low)}–{figure(high)})"


def figure(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass
class Report:
    """A benchmark's result: Markdown tables on standard output, and one JSON file.

    The JSON holds ``benchmark``, ``machine`` and ``tables``: by title, a list of rows as objects, with
    every measurement of a ``Sample`` under ``values`` beside its ``median``.
    """

    benchmark: str
    setting: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def begin(self, title: str, columns: Iterable[str]) -> None:
        """Head of a table, which rows follow at once."""
        self.tables[title] = []
        names = list(columns)
        print(f"\n**{title}**\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)

    def row(self, **cells: Any) -> None:
        """A row of the table begun last; its keywords are the columns, in order."""
        rows = next(reversed(self.tables.values()))
        rows.append({name: _plain(value) for name, value in cells.items()})
        print(f"| {' | '.join(_shown(value) for value in cells.values())} |", flush=True)

    def note(self, text: str) -> None:
        """A sentence that belongs to the figures, kept in the JSON too."""
        self.setting.setdefault("notes", []).append(text)
        print(f"\n{text}", flush=True)

    def write(self, path: Path | None) -> None:
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"benchmark": self.benchmark, "machine": machine(), **self.setting, "tables": self.tables}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        console.print(f"written: {path}", markup=False, highlight=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Sample):
        return {"median": value.median, "values": list(value.values)}
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return (
        figure(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    made.add_argument("--json", type=Path, help="write the figures to this file too")
    made.add_argument("--quick", action="store_true", help="small and few: to see that it runs, not to quote")
    return made


def in_turns(
    contestants: Mapping[str, Callable[[], float]], rounds: int, description: str = ""
) -> dict[str, Sample]:
    """Each contestant's figures, taken alternately.

    Args:
        contestants: by name, what measures once and gives its figure (as a rule, seconds).
        rounds: turns of each.
        description: what the progress bar says.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    with progress(description, total=rounds * len(contestants)) as advance:
        for _ in range(rounds):
            for name, measure in contestants.items():
                taken[name].append(measure())
                advance(1)
    return {name: Sample(tuple(values)) for name, values in taken.items()}


def seconds_of(run: Callable[[], object], times: int = 1) -> Callable[[], float]:
    """A measurement: mean seconds of ``times`` calls in a row."""

    def measured() -> float:
        began = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - began) / times

    return measured


def matmul_peak(dtype: torch.dtype = torch.bfloat16, size: int = 2048, device: str = "cpu") -> float:
    """Floating-point operations a second of the best of 20 square products, of drawn numbers."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return peak_memory_bytes(torch.device("cpu"))


def in_child(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """What a new process prints as its last line, which is JSON.

    Args:
        module: run with ``python -m``.
        arguments: its command line.
        environment: added to this process's.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
    )
    if done.returncode:
        raise RuntimeError(f"python -m {module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "bf16_instructions": "AMX" if torch.cpu._is_amx_tile_supported() else
        "AVX-512" if torch.cpu._is_avx512_bf16_supported() else "none",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
