"""The vocabulary's projection with its loss, by rows of logits at a time: part of ``benchmarks.gpu``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.run import Run
from benchmarks.measure import in_turns
from lmzoo.nn import losses
from lmzoo.nn.losses import linear_cross_entropy

PEAK = "matmul peak"


def measure_head(run: Run) -> None:
    """One table: forward and backward in bf16, of drawn states."""
    if not run.has_room("head", 15 if run.on_gpu else 1):
        return
    quick = run.options.quick
    count, width, vocabulary = (256, 32, 600) if quick else (run.options.tokens_a_step, 768, 50_304)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(count, width, generator=generator).to(run.device).requires_grad_()
    weight = (torch.randn(vocabulary, width, generator=generator) * width**-0.5).to(run.device)
    weight.requires_grad_()
    targets = torch.randint(0, vocabulary, (count,), generator=generator).to(run.device)

    def way(loss: Callable[[], Tensor], rows: int | None = None) -> Callable[[], None]:
        """Forward and backward, ``rows`` at a time if that is given."""

        def run_through() -> None:
            before = losses.CHUNK, losses.BLOCK
            losses.CHUNK, losses.BLOCK = (rows, rows) if rows else before
            try:
                with torch.autocast(run.device, torch.bfloat16):
                    total = loss()
                total.backward()
            finally:
                losses.CHUNK, losses.BLOCK = before
            states.grad = weight.grad = None

        return run_through

    def ours() -> Tensor:
        return linear_cross_entropy(states, weight, None, targets)

    def at_once() -> Tensor:
        return F.cross_entropy(F.linear(states, weight).float(), targets, reduction="sum")

    ways = {f"ours, {losses.CHUNK} rows at a time, as it is": way(ours)}
    ways |= {f"ours, {rows} rows": way(ours, rows) for rows in ((64,) if quick else (2048, 8192, 32_768))}
    ways["all at once"] = way(at_once)
    for work in ways.values():
        work()
    turns = {name: lambda work=work: run.seconds_of(work, run.options.steps) for name, work in ways.items()}
    taken = in_turns(turns | {PEAK: run.peak}, run.options.rounds, "head")
    flops, best = 6 * count * width * vocabulary, max(taken[PEAK].values)
    run.report.begin(f"head: {count:,} states of {width}, V {vocabulary:,}", ("way", "ms", "MFU %"))
    for name in ways:
        cells = {"way": name, "ms": taken[name].times(1e3), "MFU %": taken[name].per(100 * flops / best)}
        run.report.row(**cells)
