"""How our tokens a second change with the model's size, the rows, the vocabulary, and the processes.

``python -m benchmarks.scale`` takes whole training steps (as ``benchmarks.step`` does: batch, forward,
backward, clipping, fused AdamW; bf16, dropout 0.1) of the controlled line on books.valid, and changes one
thing at a time around `mini`, 8,192 pieces, 32 rows of 128:

- size: tiny, mini, small, base (ELMo's tiny has 172 cells a layer here);
- length: 64 to 1,024, with as many tokens a step;
- batch: 4 to 128 rows;
- vocabulary: 2,000 to 50,257 (above 8,192 the ids stay below, since so small a text fills no more; the cost
  of the larger table and softmax is there all the same);
- processes: ``python -m lmzoo.train`` as one process with all threads, against two that share the threads and
  the same global batch, by the tokens a second in their metrics.json.

The points of a sweep take turns; told are medians with their range, and the tokens a second beside those of
the middle in the same round. MFU is against the best square product in bf16 of the same rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import Ours, step_flops, step_tokens
from benchmarks.contests import Setting, text_batches
from benchmarks.measure import BOOKS, ROOT, Report, Sample, in_turns, matmul_peak, parser, seconds_of
from lmzoo.progress import progress

MODELS = ("bert", "gpt", "elmo")
SWEEPS = ("size", "length", "batch", "vocabulary", "processes")
STEP_TOKENS = 4096
PEAK = "matmul peak"
COLUMNS = ("model", "point", "parameters", "ms", "tokens/s", "MFU %", "tokens/s beside the middle")


def points(sweep: str, model: str, quick: bool) -> tuple[dict[str, Setting], str]:
    """The settings of a sweep by name, and which of them is the middle."""
    middle = Setting(model)
    if sweep == "size":
        found = {shape: replace(middle, shape=shape) for shape in ("tiny", "mini", "small", "base")}
        chosen = "mini"
    elif sweep == "length":
        found = {
            f"S {length}, B {STEP_TOKENS // length}": replace(
                middle, seq_len=length, batch_size=STEP_TOKENS // length
            )
            for length in (64, 128, 256, 512, 1024)
        }
        chosen = "S 128, B 32"
    elif sweep == "batch":
        found = {f"B {rows}": replace(middle, batch_size=rows) for rows in (4, 8, 16, 32, 64, 128)}
        chosen = "B 32"
    else:
        sizes = (2_000, 8_192, 20_000, 50_257)
        found = {f"V {size:,}": replace(middle, vocab_size=size) for size in sizes}
        chosen = "V 8,192"
    if quick:
        found = dict(list(found.items())[:2])
        if sweep != "size":
            found = {name: replace(setting, shape="tiny") for name, setting in found.items()}
        chosen = chosen if chosen in found else next(iter(found))
    return found, chosen


def main(arguments: list[str] | None = None) -> None:
    def several(text: str) -> list[str]:
        return text.split(",")

    made = parser(__doc__)
    made.add_argument("--models", type=several, help=f"of {','.join(MODELS)}")
    made.add_argument("--sweeps", type=several, help=f"of {','.join(SWEEPS)}")
    made.add_argument("--steps", type=int, default=1, help="training steps of a turn")
    made.add_argument("--run-steps", type=int, default=60, help="training steps of a command of `processes`")
    options = made.parse_args(arguments)
    if not BOOKS["valid"].is_file():
        print(f"skipped: {BOOKS['valid'].name} is not there, whose text is trained on")
        return
    if options.quick:
        options.rounds = min(options.rounds, 2)
        options.run_steps = min(options.run_steps, 3)
    models = options.models or (MODELS[:1] if options.quick else MODELS)
    sweeps = options.sweeps or (("size", "length", "batch", "vocabulary") if options.quick else SWEEPS)
    for name, given, known in (("--models", models, MODELS), ("--sweeps", sweeps, SWEEPS)):
        if set(given) - set(known):
            made.error(f"{name}={','.join(given)}: choose of {','.join(known)}")
    report = Report("scale", {"rounds": options.rounds, "steps_a_turn": options.steps})
    with tempfile.TemporaryDirectory(prefix="lmzoo-scale-") as folder:
        for sweep in sweeps:
            if sweep == "processes":
                measure_processes(report, models, options, Path(folder))
                continue
            report.begin(f"Training steps over {sweep}", COLUMNS)
            for model in models:
                measure_sweep(report, sweep, model, options, Path(folder))
    report.write(options.json)


def measure_sweep(report: Report, sweep: str, model: str, options: argparse.Namespace, cache: Path) -> None:
    """The rows of one model in one sweep's table."""
    settings, middle = points(sweep, model, options.quick)
    made: dict[str, tuple[Ours, float, float]] = {}
    with progress(f"{model}, {sweep}: warming up", total=len(settings)) as advance:
        for name, setting in settings.items():
            batches = text_batches(setting, cache)
            ours = Ours(setting, batches)
            whole, spared = step_flops(ours.module, batches)
            made[name] = ours, whole - spared, step_tokens(batches)
            for _ in range(2):
                ours.step()
            advance(1)
    turns: dict[str, Callable[[], float]] = {
        name: seconds_of(ours.step, options.steps) for name, (ours, _, _) in made.items()
    }
    turns[PEAK] = lambda: matmul_peak(torch.bfloat16, 512 if options.quick else 2048)
    taken = in_turns(turns, options.rounds, f"{model}, {sweep}")
    peak = max(taken[PEAK].values)
    between = taken[middle].per(made[middle][2])
    for name, (ours, flops, tokens) in made.items():
        rates = taken[name].per(tokens)
        beside = Sample(tuple(a / b for a, b in zip(rates.values, between.values, strict=True)))
        cells = (
            model,
            name,
            ours.num_parameters,
            taken[name].times(1e3),
            rates,
            taken[name].per(100 * flops / peak),
            beside,
        )
        report.row(**dict(zip(COLUMNS, cells, strict=True)))
    made.clear()
    turns.clear()
    gc.collect()  # else the largest models of one sweep live on in the next


# ---------------------------------------------------------------------------------- processes


def measure_processes(
    report: Report, models: tuple[str, ...] | list[str], options: argparse.Namespace, folder: Path
) -> None:
    """Two processes against one, through the command, with as many threads in all."""
    threads = torch.get_num_threads()
    if threads < 2:
        report.note("Two processes against one: left out, since there is one thread.")
        return
    columns = ("model", "processes × threads", "tokens/s", "beside one process")
    report.begin(
        f"Whole commands of {options.run_steps} steps, `mini`, 32 rows of 128 over all processes", columns
    )
    for model in models:
        ways = {count: threads // count for count in (1, 2)}

        def rate(count: int, model: str = model) -> float:
            return ledger_of(model, count, threads // count, options, folder)["tokens_per_second"]

        rate(1)  # makes the store
        turns = {str(count): lambda count=count: rate(count) for count in ways}
        taken = in_turns(turns, options.rounds, f"{model}: one process and two")
        for count, each in ways.items():
            rates, one = taken[str(count)], taken["1"]
            beside = Sample(tuple(a / b for a, b in zip(rates.values, one.values, strict=True)))
            cells = (model, f"{count} × {each}", rates, beside)
            report.row(**dict(zip(columns, cells, strict=True)))


def ledger_of(
    model: str, processes: int, threads: int, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """What a run of the command says of its cost.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    with tempfile.TemporaryDirectory(dir=folder) as run:
        size = "tiny" if options.quick else "mini"
        command = [
            sys.executable, "-m", "lmzoo.train", f"model={model}", f"size={size}",
            "model.dropout=0.1", "batch_size=32", "seq_len=128",
            "data=text", f"data.train={BOOKS['valid']}", f"budget.steps={options.run_steps}", "logger=none",
            "hardware=ddp" if processes > 1 else "hardware=cpu", "hardware.accelerator=cpu",
            f"hardware.devices={processes}", f"cache_dir={folder}", f"hydra.run.dir={run}/run",
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return json.loads((Path(run) / "run" / "metrics.json").read_text(encoding="utf-8"))["ledger"]


if __name__ == "__main__":
    main()
