"""What `base` and `large` would cost on 100 GB of text: the arithmetic behind the table of docs/scale.md.

``python -m benchmarks.scale_plan`` prints the table, ``--write`` puts it into docs/scale.md. Nothing is
measured here: parameters and operations are those of our own modules, built without memory for them, and the
rest follows from the assumptions below, each of which can be given on the command line.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from functools import cache

import torch

from benchmarks.measure import ROOT
from lmzoo.modules import MODULES
from lmzoo.nn.transformer import Layer
from lmzoo.types import SpecialTokens

DOCUMENT = ROOT / "docs" / "scale.md"
BEGIN, END = "<!-- python -m benchmarks.scale_plan --write -->\n", "<!-- end -->\n"
SIZES, GPUS = ("base", "large"), (8, 64, 512)


@dataclass(frozen=True)
class Assumptions:
    """What the arithmetic rests on; bytes, seconds and operations, unless a name says otherwise."""

    model: str = "gpt"
    text: float = 100e9
    bytes_a_token: float = 4.3
    vocab_size: int = 32_768
    seq_len: int = 1024
    rows: int = 1024
    """Rows of a step, over all GPUs."""
    peak: float = 989.4e12
    """bf16 operations a second of an H100 SXM, dense."""
    mfu: float = 0.4
    """Share of the peak that a step's own work reaches."""
    gpus_a_node: int = 8
    nvlink: float = 450e9
    """Bytes a second of a GPU to others of its node, one way."""
    network: float = 50e9
    """Bytes a second of a GPU to other nodes, one way: 400 Gb/s each."""
    reached: float = 0.8
    """Share of either that collectives reach."""
    stream: float = 1e9
    """Bytes a second that one process writes with a checksum."""
    storage: float = 10e9
    """Bytes a second that the shared storage takes from all."""
    failures: float = 419 / (54 * 24 * 16_384)
    """Unexpected interruptions an hour and GPU."""
    restart: float = 300.0
    """From a failure to the first step after it."""
    longest: float = 1800.0
    """Between two checkpoints, even where fewer would cost less."""
    prepared: float = 2e6
    """Bytes of text a second and process."""
    cores_a_node: int = 64


@dataclass(frozen=True)
class Model:
    """What a size weighs."""

    parameters: int
    in_layers: int
    """Of the matrices that FSDP brings together layer by layer, in bf16."""
    flops: float
    """Of a training step, a token."""


@cache
def model_of(name: str, size: str, vocab_size: int, seq_len: int) -> Model:
    """Parameters and operations of our own module, without its memory."""
    with torch.device("meta"):
        module = MODULES[name](size=size, special=SpecialTokens(vocab_size), seq_len=seq_len)
    layers = [layer for layer in module.modules() if isinstance(layer, Layer)]
    counts = dict.fromkeys(module.objective.weights, seq_len)  # a causal model predicts every token
    forward = seq_len * module.backbone.flops_per_token(seq_len) + module.objective.flops(counts, 1)
    return Model(
        parameters=sum(p.numel() for p in module.parameters()),
        in_layers=sum(
            p.numel() for layer in layers for part in (layer.attention, layer.ffn) for p in part.parameters()
        ),
        flops=3 * forward / seq_len,
    )


@dataclass(frozen=True)
class Plan:
    """One column of the table."""

    model: Model
    gpus: int
    given: Assumptions

    @property
    def tokens(self) -> float:
        return self.given.text / self.given.bytes_a_token

    @property
    def step_tokens(self) -> int:
        return self.given.rows * self.given.seq_len

    @property
    def steps(self) -> int:
        """Of one pass over the text."""
        return math.ceil(self.tokens / self.step_tokens)

    @property
    def preparation(self) -> float:
        """Seconds on all cores of the nodes."""
        processes = self.given.cores_a_node * max(self.gpus // self.given.gpus_a_node, 1)
        return self.given.text / (self.given.prepared * processes)

    @property
    def compute(self) -> float:
        """Seconds of a step's own work."""
        return self.model.flops * self.step_tokens / (self.gpus * self.given.peak * self.given.mfu)

    def _moved(self, bytes_of_all: float) -> float:
        """Seconds in which each GPU of a ring sends its (n - 1) / n of so many bytes."""
        link = self.given.nvlink if self.gpus <= self.given.gpus_a_node else self.given.network
        return bytes_of_all * (self.gpus - 1) / self.gpus / (link * self.given.reached)

    @property
    def ddp(self) -> float:
        """Seconds of a step's all-reduce: the gradients, 4 bytes each, go around twice."""
        return self._moved(2 * 4 * self.model.parameters)

    @property
    def fsdp(self) -> float:
        """Seconds of a step's all-gathers (layers twice in bf16, the rest once) and reduce-scatter."""
        rest = self.model.parameters - self.model.in_layers
        return self._moved(2 * 2 * self.model.in_layers + 4 * rest + 4 * self.model.parameters)

    @property
    def step(self) -> tuple[float, float]:
        """Seconds of a step by DDP, communication hidden behind work as far as can be, or not at all."""
        return max(self.compute, self.ddp), self.compute + self.ddp

    @property
    def checkpoint(self) -> int:
        """Bytes: weights and AdamW's two moments, 4 each."""
        return 12 * self.model.parameters

    @property
    def one_file(self) -> float:
        """Seconds for which training waits while rank 0 writes."""
        return self.checkpoint / self.given.stream

    @property
    def shards(self) -> float:
        """Seconds for which it waits while every rank writes its part, then reads it for its checksum."""
        part = self.checkpoint / self.gpus
        return max(2 * part / self.given.stream, self.checkpoint / self.given.storage)

    @property
    def between_failures(self) -> float:
        """Seconds."""
        return 3600 / (self.given.failures * self.gpus)

    @property
    def interval(self) -> float:
        """Seconds between checkpoints (of one file) that cost least (Young 1974), or the longest allowed."""
        return min(math.sqrt(2 * self.one_file * self.between_failures), self.given.longest)

    @property
    def a_failure(self) -> float:
        """Seconds that one costs: half an interval again, and the start."""
        return self.interval / 2 + self.given.restart

    def an_hour(self, interval: float | None = None) -> float:
        """Seconds of each hour that checkpoints and failures take on average."""
        interval = interval or self.interval
        lost = self.one_file / interval + (interval / 2 + self.given.restart) / self.between_failures
        return 3600 * lost


def rows(plans: list[Plan]) -> list[tuple[str, list[str]]]:
    """The table, line by line."""

    def line(name: str, show) -> tuple[str, list[str]]:
        return name, [show(plan) for plan in plans]

    return [
        line("parameters", lambda p: f"{p.model.parameters / 1e6:.0f} M"),
        line("preparation, all cores of the nodes", lambda p: duration(p.preparation)),
        line("**a step's own work**", lambda p: milliseconds(p.compute)),
        line("rows of a step a GPU", lambda p: f"{p.given.rows // p.gpus}"),
        line("**communication** of a step, DDP", lambda p: milliseconds(p.ddp)),
        line("communication of a step, FSDP", lambda p: milliseconds(p.fsdp)),
        line("**a step**: hidden – not hidden", lambda p: " – ".join(map(milliseconds, p.step))),
        line("of it the GPUs' own work, at worst", lambda p: f"{p.compute / p.step[1]:.0%}"),
        line("one pass over the text", lambda p: " – ".join(duration(s * p.steps) for s in p.step)),
        line("weights, gradients, moments a GPU, DDP", lambda p: size(16 * p.model.parameters)),
        line("the same, FSDP", lambda p: size(16 * p.model.parameters / p.gpus)),
        line("**a checkpoint**", lambda p: size(p.checkpoint)),
        line("to write it as one file", lambda p: duration(p.one_file)),
        line("to write it in shards", lambda p: duration(p.shards)),
        line("a failure every", lambda p: duration(p.between_failures)),
        line("a checkpoint every", lambda p: f"{duration(p.interval)} ({p.interval / p.step[1]:,.0f} steps)"),
        line("a failure costs", lambda p: duration(p.a_failure)),
        line("**failures and checkpoints cost an hour**", lambda p: f"{p.an_hour():.2g} s"),
    ]


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"


def duration(seconds: float) -> str:
    for name, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {name}"
    return f"{seconds:.2g} s"


def size(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def table(given: Assumptions) -> str:
    """Markdown."""
    plans = [
        Plan(model_of(given.model, name, given.vocab_size, given.seq_len), gpus, given)
        for name in SIZES
        for gpus in GPUS
    ]
    heads = [f"`{name}`, {gpus} GPUs" for name in SIZES for gpus in GPUS]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows(plans)]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    for entry in fields(Assumptions):
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}", type=type(entry.default), default=entry.default
        )
    options = vars(parser.parse_args(arguments))
    write = options.pop("write")
    made = table(Assumptions(**options))
    if not write:
        print(made, end="")
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    DOCUMENT.write_text(f"{head}{BEGIN}{made}{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
