"""How long `small` takes on 10 million words, by the whole command's rate: a part of ``benchmarks.gpu``."""

from __future__ import annotations

import csv
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.text import tokens_a_word
from benchmarks.measure import ROOT, Sample

if TYPE_CHECKING:
    from benchmarks.gpu.run import Run

WORDS, EPOCHS = 10_000_000, 10
MODELS = ("gpt", "bert")
MINUTES = 1.1
"""Of training, of which the first half or so goes to the compiler."""


def measure_small(run: Run, folder: Path) -> None:
    """One table: the command's rate, model by model, and what follows from it."""
    columns = ("model", "tokens/s", "tokens a word", "minutes for 10 M words × 10 (estimated)")
    per_word = tokens_a_word(run.store)
    found: dict[str, Sample] = {}
    for model in MODELS:
        needed = 60 * MINUTES + 40 if run.on_gpu else 5
        if not run.has_room(f"small: {model}", needed):
            break
        try:
            found[model] = rates_of(run, model, folder / model)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            run.report.note(f"small: {model} is left out: {error}")
    if not found:
        return
    run.report.begin(f"whole command, {'tiny' if run.options.quick else 'small'}", columns)
    for model, rates in found.items():
        minutes = rates.per(WORDS * EPOCHS * per_word / 60)
        run.report.row(**dict(zip(columns, (model, rates, per_word, minutes), strict=True)))
    run.report.note(
        "Rates are those between logged steps of one run each, after what was compiled; the minutes are "
        "estimated from them: compilation, validation and checkpoints come on top."
    )


def command_of(run: Run, model: str, folder: Path) -> list[str]:
    """The command that trains it."""
    options = run.options
    text = ["data=stdlib"] if options.text is None else ["data=text", f"data.train={options.text.resolve()}"]
    if options.quick:
        shape = ["size=tiny", "seq_len=32", "batch_size=4", "budget.steps=40", "logger.every_steps=5"]
        speed = ["hardware=cpu"]
    else:
        shape = ["size=small", "seq_len=512", "batch_size=64", f"budget.minutes={MINUTES}"]
        speed = ["hardware.compile=true", "hardware.attention=flex"]
        speed.append("hardware=gpu" if run.on_gpu else "hardware=cpu")
    return [
        *(sys.executable, "-m", "lmzoo.train", f"model={model}", *shape, *speed, *text, "logger=none"),
        *(f"tokenizer.vocab_size={options.pieces}", f"cache_dir={run.store.folder.parents[1]}"),
        *("valid.every_steps=1000000000", "checkpoint.every_steps=1000000000", f"hydra.run.dir={folder}"),
    ]


def rates_of(run: Run, model: str, folder: Path) -> Sample:
    """Tokens a second between logged steps of the second half of a run.

    Raises:
        RuntimeError: the command failed; the message is the end of what it said.
        subprocess.TimeoutExpired: it took longer than there was time.
    """
    done = subprocess.run(
        command_of(run, model, folder), capture_output=True, text=True, cwd=ROOT, timeout=max(run.left, 1.0)
    )
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.strip().splitlines()[-1:]))
    for line in done.stderr.splitlines():
        if "left out" in line:
            run.report.note(f"small: {model}: {line}")
    with (folder / "history.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/tokens_per_second")]
    tokens = [float(row["train/tokens_seen"]) for row in rows]
    seconds = [seen / float(row["train/tokens_per_second"]) for seen, row in zip(tokens, rows, strict=True)]
    # a few long windows: between two steps alone, rounding of the logged rates would show
    marks = sorted({round(len(rows) / 2 + share * (len(rows) / 2 - 1) / 5) for share in range(6)})
    return Sample(
        tuple(
            (tokens[later] - tokens[earlier]) / (seconds[later] - seconds[earlier])
            for earlier, later in pairwise(marks)
        )
    )
