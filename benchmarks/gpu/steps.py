"""Whole training steps, beside others': a part of ``benchmarks.gpu``."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.contestants import Contestant, Ours, Theirs, build_module, step_flops, step_tokens
from benchmarks.contests import Setting
from benchmarks.gpu.run import Plain, Run, first_line, flexing
from benchmarks.gpu.text import as_one_document, packed_batches
from benchmarks.measure import Sample, in_turns
from lmzoo.modules import LanguageModelModule
from lmzoo.nn.config import LstmConfig, TransformerConfig
from lmzoo.types import Batch

WARM_UP = 3
EXPECTED = 45
"""Seconds that a contestant may take until it is warm, while none has been seen."""
VOCABULARY = {"bert": 30_528, "bert_2018": 30_528, "gpt": 50_304, "gpt2": 50_304, "elmo": 50_304}
"""The published ones, rounded up to a multiple of 64, as is usual on GPUs; all contestants have the same."""
LARGEST_ROWS = {"elmo": 128}
PEAK = "matmul peak"
COLUMNS = ("contestant", "what", "ms", "tokens/s", "MFU %", "without attention %", "warm-up s", "peak GB")


@dataclass(frozen=True)
class Line:
    """A row of the table to be."""

    make: Callable[[], Contestant]
    batches: list[Batch]


@dataclass(frozen=True)
class Warm:
    """A contestant that runs at its speed."""

    contestant: Contestant
    batches: list[Batch]
    seconds: float
    """Of the steps that warmed it up."""
    memory: int
    """Most bytes that it took of the GPU."""


def measure_contest(run: Run, contest: str, length: int) -> None:
    """One table: everybody's steps, in turns; with half the rows for as long as memory is too small."""
    quick = run.options.quick
    if quick:
        length = max(length // 32, 16)
    rows = min(max(run.options.tokens_a_step // length, 1), LARGEST_ROWS.get(contest, 10**6))
    vocabulary = run.options.pieces if quick else VOCABULARY[contest]
    while True:
        try:
            time_contest(run, Setting(contest, "tiny" if quick else "base", vocabulary, length, rows, 0.0))
            return
        except torch.OutOfMemoryError:
            if rows == 1:
                raise
        run.report.note(f"{contest}, S {length}: memory is too small for {rows} rows; half of them now.")
        rows //= 2
        run.forget()


def lines_of(run: Run, setting: Setting, like: LanguageModelModule) -> dict[str, Line]:
    """What builds each contestant, the most telling first.

    Args:
        run: see there.
        setting: of the contest.
        like: whose weights all others start from.
    """
    packed = packed_batches(run.store, setting, count=4)
    whole = [as_one_document(batch) for batch in packed]
    # an LSTM's steps are not for the compiler, neither ours nor cuDNN's
    how = {"compiled": run.on_gpu and setting.contest != "elmo", "device": run.device}

    def ours(batches: list[Batch]) -> Line:
        return Line(lambda: Ours(setting, batches, precision="bf16", **how), batches)

    def flex(batches: list[Batch]) -> Line:
        return Line(lambda: flexing(Ours(setting, batches, precision="bf16", **how)), batches)

    def theirs(batches: list[Batch], precision: str = "bf16") -> Line:
        return Line(lambda: _theirs(setting, batches, like, precision=precision, **how), batches)

    if setting.rules.view == "pairs":
        return {"ours, mask": ours(packed), "theirs, mask": theirs(packed), "ours, flex": flex(packed)}
    if setting.contest == "elmo":
        free = unclipped(setting)
        made = [Line(lambda b=b: Ours(free, b, precision="bf16", **how), b) for b in (whole, packed)]
        return {
            "ours, not clipped": made[0],
            "theirs": theirs(whole),
            "ours, packed, not clipped": made[1],
            "ours": ours(whole),
            "theirs, fp32": theirs(whole, "fp32"),
        }
    lines = {"ours": ours(whole), "ours, packed, flex": flex(packed), "theirs": theirs(whole)}
    if setting.contest == "gpt2":
        plain = Line(lambda: Plain(setting, whole, like, precision="bf16", **how), whole)
        lines |= {"plain": plain, "ours, packed, mask": ours(packed)}
    return lines


def unclipped(setting: Setting) -> Setting:
    """An ELMo whose states are not clipped, which drawn weights' are not either; cuDNN can compute it."""
    made = replace(setting)
    model = made.config.model
    assert isinstance(model, LstmConfig)
    model.cell_clip = model.projection_clip = 0.0
    return made


def _theirs(setting: Setting, batches: Sequence[Batch], like: LanguageModelModule, **how) -> Theirs:
    made = Theirs(setting, batches, like, **how)
    attention = getattr(getattr(made.module, "config", None), "_attn_implementation", None)
    made.name += f" ({attention})" if attention else ""
    return made


def time_contest(run: Run, setting: Setting) -> None:
    """Warm all up, then take turns.

    Raises:
        torch.OutOfMemoryError: there are too many rows.
    """
    rows = f"S {setting.seq_len}, B {setting.batch_size}, V {setting.vocab_size:,}"
    title = f"{setting.contest} {setting.shape}: {rows}"
    like = build_module(setting)
    found: dict[str, Warm] = {}
    for name, line in lines_of(run, setting, like).items():
        expected = run.slowest or (EXPECTED if run.on_gpu else 2)
        if not run.has_room(f"{title}: {name}", 1.3 * expected):
            break
        try:
            found[name] = warmed_up(run, line)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in many ways, and a package may not be there
            run.report.note(f"{title}: {name} is left out: {first_line(error)}.")
    if not found:
        return
    turns: dict[str, Callable[[], float]] = {
        name: lambda step=warm.contestant.step: run.seconds_of(step, run.options.steps)
        for name, warm in found.items()
    }
    turns[PEAK] = run.peak
    taken = in_turns(turns, run.options.rounds, title)
    run.report.begin(title, COLUMNS)
    for name, warm in found.items():
        tell(run, setting, like, name, warm, taken[name], max(taken[PEAK].values))
    run.report.note(
        f"{title}: {sum(p.numel() for p in like.parameters()):,} parameters; "
        f"the best bf16 product reached {max(taken[PEAK].values) / 1e12:.3g} TFLOP/s."
    )


def warmed_up(run: Run, line: Line) -> Warm:
    began, held = time.perf_counter(), 0
    if run.on_gpu:
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    made = line.make()
    seconds = run.seconds_of(made.step, WARM_UP) * WARM_UP
    memory = torch.cuda.max_memory_allocated() - held if run.on_gpu else 0
    run.slowest = max(run.slowest, time.perf_counter() - began)
    return Warm(made, line.batches, seconds, memory)


def tell(
    run: Run, setting: Setting, like: LanguageModelModule, name: str, warm: Warm, seconds: Sample, peak: float
) -> None:
    """A row of the table."""
    flops, spared = step_flops(like, warm.batches)
    useful, attention = flops - spared, attention_flops(setting)
    cells = (
        name,
        warm.contestant.name,
        seconds.times(1e3),
        seconds.per(step_tokens(warm.batches)),
        seconds.per(100 * useful / peak),
        seconds.per(100 * (useful - attention) / peak) if attention else None,
        max(warm.seconds - WARM_UP * seconds.median, 0.0),
        warm.memory / 1e9 if run.on_gpu else None,
    )
    run.report.row(**dict(zip(COLUMNS, cells, strict=True)))


def attention_flops(setting: Setting) -> float:
    """Of a step's two products of queries, keys and values, over whole rows; 0 without attention."""
    model = setting.config.model
    if not isinstance(model, TransformerConfig):
        return 0.0
    places = setting.batch_size * setting.seq_len
    return 3.0 * places * 4 * setting.seq_len * (model.hidden_size or 0) * (model.num_layers or 0)
