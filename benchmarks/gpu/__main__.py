"""How fast models train on one GPU, how near what it can do, and beside what people use today.

``python -m benchmarks.gpu --json gpu.json`` needs one CUDA device and nine minutes, and no file but its own:
it reads the text that comes with Python, or ``--text``. It goes in this order; what ``--budget-seconds`` has
no room for is left out with a line that says so, and the JSON is written after every part:

- checks: in 32 bits at `tiny`, losses and gradients of every family on this device and on the CPU, of flex
  attention beside a mask, and of the plain GPT beside ours; what differs is not timed;
- gpt2-1024 and the like: whole training steps at `base` (bf16, torch.compile, fused AdamW, no dropout, 32,768
  tokens a step or what fits) of ours, of transformers' model, and for ``gpt2`` of a GPT as nanoGPT writes one
  (``plain_gpt.py``). Rows are one document each, in which all compute the same; ours also with the documents
  as they are, packed and kept apart, by flex attention and by a mask, which the others do not do;
- small: the whole command on `small`, whose rate once it is compiled tells how long 10 epochs of 10 million
  words would take: an estimate, not a run;
- elmo: a step of ``elmo`` at `base` in rows of 128, as it is by default, whose clipped states are computed
  step by step; without clipping, by cuDNN; and beside PyTorch's own with a full softmax, which is the same
  where a row is one document. Drawn weights reach no clip, so that all compute the same; none is compiled;
- head: the vocabulary's projection with its loss and gradients alone, by rows of logits at a time.

MFU is the share of the best bf16 product measured in the same rounds. It counts what the losses need, three
times a forward pass, with attention over whole rows as is usual, though a causal one needs half of that and
packed documents less; the column beside it leaves attention's two products out, and is the least it can be.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.contests import LARGEST_TOKENIZER
from benchmarks.gpu.checks import measure_checks
from benchmarks.gpu.head import measure_head
from benchmarks.gpu.run import Run
from benchmarks.gpu.small import measure_small
from benchmarks.gpu.steps import measure_contest
from benchmarks.gpu.text import prepared
from benchmarks.measure import Report, parser

PARTS = ("checks", "gpt2-1024", "small", "elmo", "head", "gpt2-512", "bert_2018-512", "bert-1024", "gpt-1024",
         "bert-512", "gpt-512")  # fmt: skip
"""In order; `bert_2018` has no more than 512 positions."""
ELMO_LENGTH = 128


def main(arguments: list[str] | None = None) -> None:
    options = read_options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("skipped: no GPU with CUDA is here; --device cpu --quick shows that the benchmark runs")
        return
    ends = time.monotonic() + options.budget_seconds
    settings = {
        name: getattr(options, name) for name in ("rounds", "steps", "tokens_a_step", "budget_seconds")
    }
    with tempfile.TemporaryDirectory(prefix="lmzoo-gpu-") as folder:
        store = prepared(options.text, options.pieces, Path(folder) / "cache")
        run = Run(options, Report("gpu", settings), store, ends)
        wrong = measure(run, Path(folder))
    if wrong:
        raise SystemExit(f"do not compute the same, and were not timed: {', '.join(sorted(wrong))}")


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--parts", help=f"with commas, of {','.join(PARTS)}; all by default")
    made.add_argument("--text", type=Path, help="a text file to train on; by default Python's own manual")
    made.add_argument("--budget-seconds", type=float, default=540.0, help="begin nothing that may end later")
    made.add_argument("--tokens-a-step", type=int, default=32_768)
    made.add_argument("--steps", type=int, default=10, help="training steps of a turn")
    options = made.parse_args(arguments)
    options.parts = PARTS if options.parts is None else tuple(options.parts.split(","))
    if unknown := set(options.parts) - set(PARTS):
        made.error(f"--parts: {sorted(unknown)[0]} is not known; choose of {','.join(PARTS)}")
    if options.text is not None and not options.text.is_file():
        made.error(f"--text={options.text}: there is no such file")
    options.pieces = LARGEST_TOKENIZER
    if options.quick:
        options.pieces, options.tokens_a_step, options.steps = 600, 128, 1
        options.rounds = min(options.rounds, 2)
    return options


def measure(run: Run, folder: Path) -> set[str]:
    """Part after part.

    Returns:
        the contests that do not compute what they should.
    """
    wrong: set[str] = set()
    for part in (part for part in PARTS if part in run.options.parts):
        name, _, length = part.partition("-")
        match name:
            case _ if name in wrong:
                continue
            case "checks":
                wrong = measure_checks(run)
            case "small":
                measure_small(run, folder)
            case "head":
                measure_head(run)
            case _:
                measure_contest(run, name, int(length or ELMO_LENGTH))
        run.forget()
        run.report.write(run.options.json)
    return wrong


if __name__ == "__main__":
    main()
