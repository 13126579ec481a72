"""Whether the device and every way of writing it compute the same: a part of ``benchmarks.gpu``."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.contestants import Contestant, Ours, build_module
from benchmarks.contests import CONTESTS, Setting
from benchmarks.gpu.run import LeftOut, Plain, Run, flexing
from benchmarks.gpu.steps import unclipped
from benchmarks.gpu.text import as_one_document, packed_batches

TOLERANCE = 1e-4
"""Largest relative difference of two losses in 32 bits, on two devices; ten times that for the norms of their
gradients."""
KERNEL_TOLERANCE = 1e-3
"""The same for flex attention and cuDNN's LSTM, which may take shorter products for 32 bits."""
COLUMNS = ("contest", "what", "loss", "its", "off", "gradient off", "outcome")


def measure_checks(run: Run) -> set[str]:
    """One table: losses and gradients in 32 bits, here and there.

    Returns:
        the contests that differ.
    """
    run.report.begin("Checks in 32 bits: tiny, 4 rows of 64 tokens", COLUMNS)
    wrong: set[str] = set()
    told: list[str] = []
    for contest in CONTESTS:
        if not run.has_room(f"checks of {contest}", 20 if run.on_gpu else 2):
            break
        for what, one, other, tolerance in pairs_of(
            run, Setting(contest, "tiny", run.options.pieces, 64, 4, 0.0)
        ):
            try:
                (loss, norm), (its, its_norm) = one().exact(0), other().exact(0)
            except LeftOut as reason:
                told.append(f"{contest}: {what} is left out: {reason}.")
                continue
            off, gradient_off = abs(loss - its) / abs(its), abs(norm - its_norm) / its_norm
            agree = off <= tolerance and gradient_off <= 10 * tolerance  # NaN is no agreement either
            if not agree:
                wrong.add(contest)
            cells = (contest, what, loss, its, off, gradient_off, "agree" if agree else "**differ**")
            run.report.row(**dict(zip(COLUMNS, cells, strict=True)))
    for line in told:
        run.report.note(line)
    return wrong


Make = Callable[[], Contestant]


def pairs_of(run: Run, setting: Setting) -> list[tuple[str, Make, Make, float]]:
    """What is held against what, and how far apart they may be."""
    packed = packed_batches(run.store, setting, count=1)
    whole = [as_one_document(batch) for batch in packed]

    def ours(batches, device: str = run.device) -> Ours:
        return Ours(setting, batches, precision="fp32", device=device)

    def plain() -> Plain:
        like = build_module(setting)
        return Plain(setting, whole, like, precision="fp32", compiled=False, device=run.device)

    found: list[tuple[str, Make, Make, float]] = [
        ("this device, the CPU", lambda: ours(packed), lambda: ours(packed, "cpu"), TOLERANCE)
    ]
    if setting.contest == "elmo":
        free = unclipped(setting)

        def not_clipped() -> Ours:
            return Ours(free, packed, precision="fp32", device=run.device)

        found.append(("clipped, not clipped", lambda: ours(packed), not_clipped, KERNEL_TOLERANCE))
    else:
        flex = ("a mask, flex", lambda: ours(packed), lambda: flexing(ours(packed)), KERNEL_TOLERANCE)
        found.append(flex)
    if setting.contest == "gpt2":
        found.append((f"ours, {Plain.name}", lambda: ours(whole), plain, TOLERANCE))
    return found
