"""How fast a training step is, beside what people use today.

``python -m benchmarks.step`` lets ours and what it is the same as elsewhere (``benchmarks.contestants`` says
which, and how both are made equal) train on the same batches of books.valid, in one process, in turns of a
few whole steps: batch, forward, backward, clipping, fused AdamW. Told are

- milliseconds of a step, tokens a second (padding not counted), and how many times longer a step takes than
  ours takes without torch.compile at the same dropout, in the first of the precisions;
- MFU: the operations a second that the losses need, one count for both, against the best square product in
  bf16 that was measured in the same rounds;
- for compiled ones, the seconds before they run at their speed, which are in no other figure; ours compiles
  its backbone, as ``hardware.compile`` does, the others compile whole;
- the peak of resident memory over three steps, above what the process held before the model was built, each
  in a new process.

Before anything is timed, the contestants' losses and gradients are held against each other in 32 bits without
dropout; where they differ the benchmark fails. The others run in fp32 too, as people run them. The first
dropout has all contestants, the others the uncompiled ones alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch._inductor import config as inductor

from benchmarks.contestants import (
    Contestant,
    Disagreement,
    Ours,
    Theirs,
    build_module,
    check_agreement,
    step_flops,
    step_tokens,
    transformers_class,
)
from benchmarks.contests import CONTESTS, SHAPES, Setting, text_batches
from benchmarks.measure import BOOKS, Report, Sample, in_child, in_turns, matmul_peak, parser, seconds_of
from lmzoo.progress import progress
from lmzoo.types import Batch

WARM_UP = 3
LARGE_VOCABULARY = 50_257
"""GPT-2's, at which memory is told too."""
PEAK = "matmul peak"


@dataclass(frozen=True)
class Variant:
    """One line of a contest."""

    side: str
    """`ours` or `theirs`."""
    precision: str
    dropout: float
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.side}{' + torch.compile' if self.compiled else ''}, {self.precision}, {self.dropout:g}"


def main(arguments: list[str] | None = None) -> None:
    options = read_options(arguments)
    if not BOOKS["valid"].is_file():
        print(f"skipped: {BOOKS['valid'].name} is not there, whose text is trained on")
        return
    settings = [
        Setting(contest, shape, options.vocab, options.seq_len, options.batch_size, options.dropout[0])
        for contest in options.contests
        for shape in options.shapes
    ]
    if options.child:
        variant = Variant(options.child, options.precisions[0], options.dropout[0])
        print(json.dumps(peak_of_steps(settings[0], variant, options.cache)))
        return
    inductor.force_disable_caches = True  # what an earlier run compiled would hide the seconds it takes
    report = Report("step", {"steps_a_turn": options.steps, "rounds": options.rounds})
    with tempfile.TemporaryDirectory(prefix="lmzoo-step-") as folder:
        pairs = {}
        for setting in settings:
            try:
                pairs[setting] = measure_contest(report, setting, options, Path(folder))
            except Disagreement as error:
                raise SystemExit(f"{setting.contest} {setting.shape}: {error}") from None
        if options.memory_runs:
            measure_memory(report, pairs, options, Path(folder))
    report.write(options.json)


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return text.split(",")

    made = parser(__doc__)
    made.add_argument("--contests", type=several, help=f"by default all: {','.join(CONTESTS)}")
    made.add_argument("--shapes", type=several, default=["target"], help=f"of {','.join(SHAPES)}")
    made.add_argument("--precisions", type=several, default=["bf16"], help="of both sides: bf16,fp32")
    made.add_argument("--dropout", type=several, default=["0.1", "0"], help="one or more, with commas")
    made.add_argument("--vocab", type=int, default=8192)
    made.add_argument("--seq-len", type=int, default=128)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--steps", type=int, default=2, help="training steps of a turn")
    made.add_argument("--memory-runs", type=int, default=2, help="processes a peak of memory; 0: no memory")
    made.add_argument(
        "--no-compile", action="store_true", help="leave out torch.compile, which takes minutes"
    )
    made.add_argument("--child", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    made.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args(arguments)
    if options.quick:
        options.shapes, options.batch_size, options.seq_len = ["tiny"], 4, 64
        options.rounds, options.steps, options.no_compile = min(options.rounds, 2), 1, True
        options.memory_runs = min(options.memory_runs, 1)
    options.contests = options.contests or (["bert_2018"] if options.quick else list(CONTESTS))
    options.dropout = [float(rate) for rate in options.dropout]
    for name, given, known in (
        ("--contests", options.contests, CONTESTS),
        ("--shapes", options.shapes, SHAPES),
        ("--precisions", options.precisions, ("bf16", "fp32")),
    ):
        if set(given) - set(known):
            made.error(f"{name}={','.join(given)}: choose of {','.join(known)}")
    return options


# ---------------------------------------------------------------------------------- speed


def variants_of(options: argparse.Namespace) -> list[Variant]:
    """The lines of a contest, ours first."""
    found = []
    for rate in options.dropout:
        compiles = [False] if options.no_compile or rate != options.dropout[0] else [False, True]
        for side in ("ours", "theirs"):
            found += [Variant(side, p, rate, c) for p in options.precisions for c in compiles]
        if rate == options.dropout[0] and "fp32" not in options.precisions:
            found.append(Variant("theirs", "fp32", rate))
    return found


def measure_contest(report: Report, setting: Setting, options: argparse.Namespace, cache: Path) -> bool:
    """One table: everybody's steps, in turns.

    Returns:
        whether the other side was there.

    Raises:
        Disagreement: the two sides do not compute the same.
    """
    batches = text_batches(setting, cache)
    variants = variants_of(options)
    try:
        difference = check_agreement(
            Ours(setting, batches), Theirs(setting, batches, build_module(setting)), 1 if options.quick else 2
        )
    except ImportError:
        report.note(f"{setting.contest}: {setting.rules.other} is left out, which is not installed.")
        variants, difference = [variant for variant in variants if variant.side == "ours"], None
    contestants: dict[Variant, Contestant] = {}
    warm_up: dict[Variant, float] = {}
    for variant in variants:
        made = build(setting, variant, batches)
        with progress(f"{setting.contest}: warming up {variant}"):
            try:
                warm_up[variant] = seconds_of(made.step, WARM_UP)() * WARM_UP
                contestants[variant] = made
            except Exception as error:  # compilers fail in many ways
                if not variant.compiled:
                    raise
                report.note(f"{setting.contest}: {variant} is left out: {str(error).strip().splitlines()[0]}")
    turns: dict[str, Callable[[], float]] = {
        str(variant): seconds_of(made.step, options.steps) for variant, made in contestants.items()
    }
    turns[PEAK] = lambda: matmul_peak(torch.bfloat16, 512 if options.quick else 2048)
    taken = in_turns(turns, options.rounds, f"{setting.contest} {setting.shape}")
    (flops, spared), tokens = step_flops(build_module(setting), batches), step_tokens(batches)
    needed = flops - spared
    tell(report, setting, contestants, warm_up, taken, needed, tokens)
    alike = "" if difference is None else f"; losses agree to {max(difference, 1e-7):.0e} of themselves"
    report.note(
        f"{setting.contest} {setting.shape}: {next(iter(contestants.values())).num_parameters:,} parameters, "
        f"{needed / 1e9:.1f} GFLOP a step are needed (with the last layer where nothing is predicted, "
        f"{flops / 1e9:.1f}) for {tokens:.0f} tokens; "
        f"peak in bf16 {max(taken[PEAK].values) / 1e9:.0f} GFLOP/s{alike}."
    )
    contestants.clear()
    del turns, made
    gc.collect()
    torch._dynamo.reset()  # else what one contest compiled counts against the next one's limit
    return difference is not None


def tell(
    report: Report,
    setting: Setting,
    contestants: dict[Variant, Contestant],
    warm_up: dict[Variant, float],
    taken: dict[str, Sample],
    flops: float,
    tokens: float,
) -> None:
    """The rows of a contest's table."""
    columns = ("contestant", "precision", "dropout", "ms", "tokens/s", "MFU %", "× ours", "compile s")
    report.begin(
        f"{setting.contest} {setting.shape}: V {setting.vocab_size:,}, S {setting.seq_len}, "
        f"B {setting.batch_size}",
        columns,
    )
    peak = max(taken[PEAK].values)
    for variant, contestant in contestants.items():
        seconds = taken[str(variant)]
        ours = taken[str(next(one for one in contestants if one.dropout == variant.dropout))]
        beside = Sample(tuple(a / b for a, b in zip(seconds.values, ours.values, strict=True)))
        cells = (
            contestant.name + (" + torch.compile" if variant.compiled else ""),
            variant.precision,
            f"{variant.dropout:g}",
            seconds.times(1e3),
            seconds.per(tokens),
            seconds.per(100 * flops / peak),
            beside,
            warm_up[variant] - WARM_UP * seconds.median if variant.compiled else None,
        )
        report.row(**dict(zip(columns, cells, strict=True)))


def build(setting: Setting, variant: Variant, batches: list[Batch]) -> Contestant:
    """A contestant with weights of its own, equal to all the others'."""
    setting = replace(setting, dropout=variant.dropout)
    how = {"precision": variant.precision, "compiled": variant.compiled}
    if variant.side == "ours":
        return Ours(setting, batches, **how)
    return Theirs(setting, batches, build_module(setting), **how)


# ---------------------------------------------------------------------------------- memory


def measure_memory(
    report: Report, pairs: dict[Setting, bool], options: argparse.Namespace, cache: Path
) -> None:
    """One table: peaks of each setting's sides (both, where its value is true), at two vocabularies."""
    precision = options.precisions[0]
    columns = ("contest", "shape", "V", "ours MB", "theirs MB", "ours/theirs")
    report.begin(f"Peak memory of a step in {precision}, dropout {options.dropout[0]:g}", columns)
    for setting, both in list(pairs.items())[: 1 if options.quick else None]:
        for vocabulary in [options.vocab] if options.quick else sorted({options.vocab, LARGE_VOCABULARY}):

            def run(side: str, setting: Setting = setting, vocabulary: int = vocabulary) -> float:
                return in_child(
                    "benchmarks.step", "--child", side, "--cache", str(cache), "--precisions", precision,
                    "--contests", setting.contest, "--shapes", setting.shape, "--vocab", str(vocabulary),
                    "--dropout", str(setting.dropout), "--seq-len", str(setting.seq_len),
                    "--batch-size", str(setting.batch_size),
                )  # fmt: skip

            sides: dict[str, Callable[[], float]] = {"ours": lambda run=run: run("ours")}
            if both and not options.quick:  # a process more takes longer than all the rest of a quick run
                sides["theirs"] = lambda run=run: run("theirs")
            found = in_turns(sides, options.memory_runs, f"memory: {setting.contest}")
            megabytes = {side: sample.times(1e-6) for side, sample in found.items()}
            theirs = megabytes.get("theirs")
            share = theirs and megabytes["ours"].median / theirs.median
            cells = (setting.contest, setting.shape, vocabulary, megabytes["ours"], theirs, share)
            report.row(**dict(zip(columns, cells, strict=True)))


def peak_of_steps(setting: Setting, variant: Variant, cache: Path) -> float:
    """Bytes that three steps take in this process at most, model and optimizer included."""
    batches = text_batches(setting, cache)
    if variant.side == "theirs" and setting.contest != "elmo":
        transformers_class(setting)  # code is no memory of a step
    before = resident_bytes("VmRSS")
    contestant = build(setting, variant, batches)
    for _ in range(3):
        contestant.step()
    return resident_bytes("VmHWM") - before


def resident_bytes(which: str) -> int:
    """`VmRSS`, or its peak `VmHWM`: unlike getrusage's, a process does not inherit it from who started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status does not tell {which}")


if __name__ == "__main__":
    main()
