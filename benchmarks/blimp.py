"""How much of BLiMP a model knows after training on ten million words of books, beside what was published.

Two plans:

- ``cpu``: a causal LM of 4 layers of 256 (5.4 M parameters), with Muon, for --minutes of training;
- ``gpu``: a causal, a masked and a hybrid LM (one causal row in sixteen) of 12 layers of 384 (31 M parameters,
  as GPT-BERT's small one), each for --epochs of the text or for --minutes, whichever is said, compiled.

BLiMP whole (67,000 pairs), read as each model reads by itself, a hybrid in both readings; the figure is the mean
over paradigms. BLiMP has straight quotes and apostrophes only (in 37 % of its pairs) and the books typographic ones
only, so the text is trained on with straight ones; --quotes-as-they-are leaves it. The published scores are of other
ten million words (BabyLM's, mostly speech and simple prose; ours are old books), and GPT-BERT's and LTG-BERT's of many
more epochs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import BOOKS, ROOT, SHARED, Report, parser
from benchmarks.trainer import write_small_text
from benchmarks.trainer_runs import Bench, CommandRun, Failed, quoted
from lmzoo.errors import LmzooError
from lmzoo.progress import progress
from lmzoo.text.packed import open_unpacked

PAIRS = SHARED / "zeroshot" / "blimp.jsonl.gz"
PUBLISHED = {
    "GPT-BERT, 31 M parameters, 10 M words (Charpentier and Samuel 2024)": 81.2,
    "LTG-BERT, 10 M words (the same)": 80.6,
    "a decoder alone, 10 M words (the same)": 69.8,
    "GPT-2 small, 10 M words (BabyLM 2025)": 67.3,
}
STRAIGHT = {curly.encode(): straight.encode() for curly, straight in zip("‘’“”", "''\"\"", strict=True)}


@dataclass(frozen=True)
class Arm:
    """A model that is trained, and the ways in which it is read."""

    overrides: tuple[str, ...]
    readings: tuple[str | None, ...] = (None,)


ARMS = {
    "causal": Arm(("model=gpt",)),
    "masked": Arm(("model=bert",)),
    "hybrid": Arm(("model=bert", "objective=hybrid", "objective.causal_share=0.0625"), ("full", "past")),
}


@dataclass(frozen=True)
class Plan:
    """What is trained, and how."""

    arms: tuple[str, ...]
    rate: float
    overrides: tuple[str, ...]


PLANS = {
    "cpu": Plan(
        ("causal",),
        5e-3,  # not searched: 8e-3 at width 128 over the width, and more for twice the batch
        (
            *("model.num_layers=4", "model.hidden_size=256", "model.num_heads=4", "model.ffn_size=704"),
            *("batch_size=32", "optimizer=muon"),
        ),
    ),
    "gpu": Plan(
        tuple(ARMS),
        2.7e-3,  # 8e-3 at width 128, the best that was measured, over the width (docs/recipes.md)
        (
            *("model.num_layers=12", "model.hidden_size=384", "model.num_heads=6", "model.ffn_size=1536"),
            *(
                "seq_len=128",
                "batch_size=256",
                "hardware=gpu",
                "hardware.compile=true",
                "objective.mask_rate=0.3",
            ),
        ),
    ),
}


def main(arguments: list[str] | None = None) -> None:
    options = read_options(arguments)
    missing = [str(path) for path in (*options.text, options.pairs) if not path.is_file()]
    if missing and not options.quick:
        print(f"skipped: {missing[0]} is not there; give --text TRAIN VALID and --pairs FILE")
        return
    with tempfile.TemporaryDirectory(prefix="lmzoo-blimp-") as name:
        try:
            measure(options, options.folder or Path(name))
        except (Failed, LmzooError) as error:
            sys.exit(f"error: {error}")


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--plan", choices=list(PLANS), default="cpu")
    made.add_argument("--arms", type=lambda given: given.split(","), help="of causal,masked,hybrid")
    made.add_argument("--minutes", type=float, help="of training, an arm; with `cpu` 30 by default")
    made.add_argument("--epochs", type=float, help="of the text, an arm; with `gpu` 10 by default")
    made.add_argument("--rate", type=float, help="the learning rate of every arm")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--text", type=Path, nargs=2, default=[BOOKS["train"], BOOKS["valid"]])
    made.add_argument("--pairs", type=Path, default=PAIRS)
    made.add_argument("--quotes-as-they-are", action="store_true", help="train on the text to the letter")
    made.add_argument("--folder", type=Path, help="where the runs stay; else nothing does")
    made.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="said of every training beside"
    )
    options = made.parse_args(arguments)
    plan = PLANS[options.plan]
    options.arms = options.arms or list(plan.arms)
    for arm in options.arms:
        if arm not in ARMS:
            made.error(f"--arms {arm}: choose of {','.join(ARMS)}")
    if options.minutes is not None and options.epochs is not None:
        made.error("--minutes and --epochs are two budgets; give one")
    if options.minutes is None and options.epochs is None:
        options.minutes, options.epochs = (30.0, None) if options.plan == "cpu" else (None, 10.0)
    options.rate = options.rate or plan.rate
    if options.quick:
        options.minutes, options.epochs, options.arms = 0.05, None, ["causal", "hybrid"]
    return options


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Train, evaluate, and print one table."""
    folder.mkdir(parents=True, exist_ok=True)
    text, pairs, more = options.text, options.pairs, []
    if options.quick:
        text, pairs = write_small_text(folder), _few_pairs(folder)
        more = [f"cache_dir={quoted(folder / 'cache')}", "tokenizer.vocab_size=400", "seq_len=32"]
    if not options.quotes_as_they_are:
        text = [with_straight_quotes(path, folder / f"{part}.straight.txt.gz")
                for part, path in zip(("train", "valid"), text, strict=True)]  # fmt: skip
    data = ["data=text", f"data.train={quoted(text[0])}", f"data.valid={quoted(text[1])}", *more]
    bench = Bench(folder, data)
    bench.prepare()
    budget = f"budget.minutes={options.minutes}" if options.minutes else f"budget.epochs={options.epochs}"
    report = Report("blimp", {"plan": options.plan, "budget": budget, "seed": options.seed})
    report.begin(
        "BLiMP, % of pairs, mean over paradigms",
        ["arm", "read as", "BLiMP", "phenomena", "tokens", "parameters", "minutes", "bits a byte"],
    )
    with progress("training and evaluating", len(options.arms)) as advance:
        for name in options.arms:
            arm, kept = ARMS[name], folder / name
            shape = ["size=tiny"] if options.quick else list(PLANS[options.plan].overrides)
            if name == "causal":  # has no masks whose share could be set
                shape = [said for said in shape if not said.startswith("objective.")]
            run = bench.command(
                [
                    *(
                        *arm.overrides,
                        *shape,
                        budget,
                        f"optimizer.lr={options.rate:.6g}",
                        f"seed={options.seed}",
                    ),
                    *("valid.every_steps=1000000", "checkpoint.every_steps=1000000", "logger=csv"),
                    *options.set,
                ],
                keep=kept,
            )
            for reading in arm.readings:
                found = evaluated(kept, pairs, reading)
                report.row(**row(name, reading, run, found))
            advance(1)
    for source, score in PUBLISHED.items():
        report.note(f"{source}: {score}")
    report.write(options.json)


def row(arm: str, reading: str | None, run: CommandRun, found: dict[str, float]) -> dict[str, object]:
    """What the table says of one reading of one run."""
    ledger = run.metrics["ledger"]
    phenomena = {phenomenon: score for phenomenon, score in found.items() if phenomenon != "all"}
    worst, best = min(phenomena, key=phenomena.__getitem__), max(phenomena, key=phenomena.__getitem__)
    return {
        "arm": arm,
        "read as": reading or "trained",
        "BLiMP": found["all"],
        "phenomena": f"{worst} {phenomena[worst]:.1f} to {best} {phenomena[best]:.1f}",
        "tokens": ledger["tokens_seen"],
        "parameters": ledger["params_total"],
        "minutes": ledger["seconds"] / 60,
        "bits a byte": run.metrics["valid"].get("bits_per_byte"),
    }


def evaluated(run: Path, pairs: Path, reading: str | None) -> dict[str, float]:
    """The figure as `all`, and those of the phenomena. Raises Failed with the end of what the command said."""
    asked = [f"run={run}", "yardstick=minimal_pairs", f"pairs={pairs}", "ngram_tokens=0"]
    asked += [f"reading={reading}"] if reading else []
    done = subprocess.run(
        [sys.executable, "-m", "lmzoo.evaluate", *asked], capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise Failed(f"python -m lmzoo.evaluate {' '.join(asked)} failed: {done.stderr[-2000:]}")
    place = run / "evaluations" / (f"reading-{reading}" if reading else "")
    told = json.loads((place / "minimal_pairs.json").read_text(encoding="utf-8"))
    return {"all": told["figure"], **told["parts"]["phenomena"]}


def with_straight_quotes(text: Path, to: Path) -> Path:
    """A copy of a text, packed or not, whose quotes and apostrophes are those of a typewriter.

    Raises:
        LmzooError: the text cannot be read or is damaged.
    """
    with open_unpacked(text) as (lines, _), gzip.open(to, "wb", compresslevel=1) as copy:
        for line in lines:  # bytes as they are, so that what is no UTF-8 is refused where a corpus is read
            for curly, straight in STRAIGHT.items():
                line = line.replace(curly, straight)
            copy.write(line)
    return to


def _few_pairs(folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    pairs = [
        {"sentence_good": "A run is a folder.", "sentence_bad": "A run are a folder."},
        {"sentence_good": "The loss is told.", "sentence_bad": "The loss are told."},
    ]
    lines = [
        json.dumps({"UID": "agreement", "linguistics_term": "agreement", "pairID": str(number), **pair})
        for number, pair in enumerate(pairs)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
