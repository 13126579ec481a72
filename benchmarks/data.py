"""How fast text becomes batches, and how long a command takes to its first step.

Four questions, each a table; a text of the shared corpus, or ``--text``:

- tokenizer: seconds to train one of 8,192 pieces on the sample of the text that preparation takes, each
  time in a new process;
- preparation: seconds and peak of resident memory, tokenizer included, for the text and for one
  ``--times`` as long, each time in a new process and an empty cache; the copies in the longer text have
  their paragraphs shuffled, so that all its documents differ. Beside it, what its parts take alone: reading
  (unpacking and decoding), training the tokenizer, cutting into sentences, and the tokenizer's own
  ``encode_batch`` on the same sentences;
- views: batches a second through the data module's loader (32 rows, 128 tokens), every round other ones,
  and what share that is of a training step of ``--step-seconds``;
- start: from the moment a training command is asked for to the end of its first step, with the corpus
  prepared before and every file in the disk's cache, stage by stage.

Contestants take turns over rounds; figures are medians with their range. Memory is what the kernel counted
for the process itself; of it, the pages of mapped files can be had back at any time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import BOOKS, ROOT, Report, Sample, in_child, in_turns, parser, peak_bytes
from lmzoo.data.config import VIEWS, DataConfig
from lmzoo.data.corpus import Corpus
from lmzoo.data.corpus import Sample as TextSample
from lmzoo.data.encoding import BATCH_CHARACTERS
from lmzoo.data.prepare import prepare
from lmzoo.data.store import Store
from lmzoo.progress import progress
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.readers import read_documents, resolve_paths
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer, train_tokenizer

TOKENIZERS = ("bpe", "wordpiece")
PARTS = ("tokenizer", "preparation", "views", "start")
BATCH_SIZE, SEQ_LEN = 32, 128


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--text", type=Path, help="a text as data.train takes it; books.train by default")
    made.add_argument("--vocab-size", type=int, default=8192)
    made.add_argument("--times", type=int, default=10, help="how many times as long the longer text is")
    made.add_argument("--step-seconds", type=float, default=0.3, help="of the step that batches are held to")
    made.add_argument("--only", choices=PARTS)
    made.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = made.parse_args(arguments)
    if options.child:
        kind, *rest = options.child
        print(json.dumps(CHILDREN[kind](*rest)))
        return
    if options.quick:
        options.vocab_size, options.times, options.rounds = 2048, 2, 1
    options.text = (options.text or BOOKS["train"]).absolute()
    if not options.text.is_file():
        print(f"skipped: {options.text} is not there, which is to be prepared; give --text")
        return
    report = Report("data", {"text": options.text.name, "rounds": options.rounds})
    wanted = [options.only] if options.only else PARTS
    with tempfile.TemporaryDirectory(prefix="lmzoo-data-") as name:
        folder = Path(name)
        if options.quick:
            options.text = beginning(options.text, folder / "beginning.txt")
        if "tokenizer" in wanted:
            measure_tokenizers(report, options)
        if "preparation" in wanted:
            measure_preparation(report, options, folder)
        if "views" in wanted or "start" in wanted:
            store = prepare(data_config(options.text), tokenizer_config(options.vocab_size), folder / "cache")
            if "views" in wanted:
                measure_views(report, options, store)
            if "start" in wanted:
                measure_start(report, options, folder)
    report.write(options.json)


# ---------------------------------------------------------------------------------- tokenizers


def measure_tokenizers(report: Report, options: argparse.Namespace) -> None:
    """Seconds of training, each time in a process of its own."""
    sizes: dict[str, float] = {}

    def train(name: str) -> float:
        found = child("tokenizer", str(options.text), name, str(options.vocab_size))
        sizes[name] = found["bytes"] / 1e6
        return found["seconds"]

    names = TOKENIZERS[:1] if options.quick else TOKENIZERS
    times = in_turns({name: lambda name=name: train(name) for name in names}, options.rounds, "tokenizers")
    report.begin(
        f"training a tokenizer of {options.vocab_size:,} pieces",
        ("tokenizer", "sample, MB", "seconds", "MB/s"),
    )
    for name, seconds in times.items():
        report.row(
            tokenizer=name,
            megabytes=sizes[name],
            seconds=seconds,
            megabytes_per_second=seconds.per(sizes[name]),
        )


def train_one(text: str, name: str, vocab_size: str) -> dict[str, float]:
    """Train on the sample that preparation would take."""
    config = tokenizer_config(int(vocab_size), name)
    texts = list(sampled(Path(text), config))
    seconds = seconds_of_one(lambda: train_tokenizer(config, texts))
    return {"seconds": seconds, "bytes": sum(len(each.encode()) for each in texts)}


def sampled(text: Path, config: TokenizerConfig) -> Iterator[str]:
    sample = TextSample(config.sample_megabytes * 1_000_000)
    for part, document in Corpus(data_config(text)).read(lambda amount: None):
        if part == "train":
            sample.add(document.text)
    return sample.texts()


# ---------------------------------------------------------------------------------- preparation


def measure_preparation(report: Report, options: argparse.Namespace, folder: Path) -> None:
    """The text and a longer one, and what the parts of the work take alone."""
    longer = folder / f"{options.times}x.txt.gz"
    write_longer(options.text, longer, options.times)
    texts = {"×1": options.text, f"×{options.times}": longer}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in texts}

    def build(name: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            found[name].append(child("prepare", str(texts[name]), cache, str(options.vocab_size)))
        return found[name][-1]["seconds"]

    shorter, more = texts
    # the longer text is its own repetition: fewer rounds of it say as much
    seconds = in_turns({shorter: lambda: build(shorter)}, options.rounds, "preparing")
    rounds = min(options.rounds, 2)
    seconds |= in_turns({more: lambda: build(more)}, rounds, f"preparing {more}")
    columns = ("text", "MB", "documents", "tokens", "seconds", "MB/s", "peak MB", "found again, s")
    report.begin("preparation", columns)
    for name, taken in seconds.items():
        first = found[name][0]
        report.row(
            text=name,
            megabytes=first["bytes"] / 1e6,
            documents=first["documents"],
            tokens=first["tokens"],
            seconds=taken,
            megabytes_per_second=taken.per(first["bytes"] / 1e6),
            peak_megabytes=Sample(tuple(each["peak_bytes"] / 1e6 for each in found[name])),
            found_again_seconds=Sample(tuple(each["found_seconds"] for each in found[name])),
        )
    measure_parts(report, options, seconds[shorter])


def measure_parts(report: Report, options: argparse.Namespace, whole: Sample) -> None:
    """What reading, training, cutting and encoding take alone, beside the whole."""
    taken: list[dict[str, float]] = []

    def run() -> float:
        taken.append(child("parts", str(options.text), str(options.vocab_size)))
        return sum(taken[-1].values())

    in_turns({"parts": run}, options.rounds, "the parts of preparation")
    report.begin("what preparation is made of, each part alone", ("part", "seconds", "share of the whole, %"))
    report.row(part="all of it", seconds=whole, share=100.0)
    for part in taken[0]:
        seconds = Sample(tuple(each[part] for each in taken))
        report.row(part=part, seconds=seconds, share=100 * seconds.median / whole.median)


def prepare_one(text: str, cache: str, vocab_size: str) -> dict[str, float]:
    """Prepare the text in this process, and find it again."""
    data, tokenizer = data_config(Path(text)), tokenizer_config(int(vocab_size))
    began = time.perf_counter()
    store = prepare(data, tokenizer, Path(cache))
    seconds = time.perf_counter() - began
    peak = peak_bytes()
    return {
        "seconds": seconds,
        "found_seconds": seconds_of_one(lambda: prepare(data, tokenizer, Path(cache))),
        "bytes": sum(store.text_bytes.values()),
        "documents": sum(part.num_documents for part in store.parts.values()),
        "tokens": sum(part.num_tokens for part in store.parts.values()),
        "peak_bytes": peak,
    }


def parts_of_one(text: str, vocab_size: str) -> dict[str, float]:
    """Seconds of what preparation does with a text, part by part."""
    config = tokenizer_config(int(vocab_size))
    reading = seconds_of_one(lambda: deque(Corpus(data_config(Path(text))).read(lambda _: None), maxlen=0))
    texts = list(sampled(Path(text), config))
    trained: list[TextTokenizer] = []
    training = seconds_of_one(lambda: trained.append(train_tokenizer(config, texts)))
    cutting = encoding = 0.0
    held: list[str] = []
    characters = 0

    def encode() -> float:
        return seconds_of_one(lambda: trained[0].encode_batch(held))

    for document in documents_of(Path(text)):
        began = time.perf_counter()
        starts = sentence_spans(document.text, "split")
        ends = [*starts[1:], len(document.text)]
        sentences = [document.text[start:end] for start, end in zip(starts, ends, strict=True)]
        cutting += time.perf_counter() - began
        for sentence in sentences:
            held.append(sentence)
            characters += len(sentence)
            if characters >= BATCH_CHARACTERS:
                encoding += encode()
                held, characters = [], 0
    encoding += encode()
    return {
        "reading, twice": 2 * reading,
        "training the tokenizer": training,
        "cutting into sentences": cutting,
        "encode_batch": encoding,
    }


def beginning(text: Path, to: Path, num_bytes: int = 2_000_000) -> Path:
    """The first documents of a text, as a text."""
    with to.open("w", encoding="utf-8") as file:
        for document in documents_of(text):
            file.write(document.text + "\n\n")
            if file.tell() > num_bytes:
                break
    return to


def write_longer(text: Path, longer: Path, times: int) -> None:
    """Copies of the text, each with the paragraphs of every document in another order."""
    with (
        progress("writing the longer text", total=times) as advance,
        gzip.open(longer, "wt", encoding="utf-8", compresslevel=1) as file,
    ):
        for copy in range(times):
            shuffle = random.Random(copy).shuffle
            for document in documents_of(text):
                paragraphs = document.text.split("\n")
                shuffle(paragraphs)
                file.write("\n".join(paragraphs) + "\n\n")
            advance(1)


# ---------------------------------------------------------------------------------- views


def measure_views(report: Report, options: argparse.Namespace, store: Store) -> None:
    """Batches of each view, drawn in the order of a run, each round going on where the last one ended."""
    from lmzoo.data.datamodule import TextDataModule

    num_batches = 50 if options.quick else 300
    built: dict[str, float] = {}
    tokens: dict[str, list[float]] = {view: [] for view in VIEWS}

    def contestant(view: str) -> Callable[[], float]:
        began = time.perf_counter()
        datamodule = TextDataModule(store, view=view, seq_len=SEQ_LEN, batch_size=BATCH_SIZE, seed=1)
        built[view] = time.perf_counter() - began

        def measure() -> float:
            datamodule.total_steps = datamodule.start_step + num_batches
            began = time.perf_counter()
            batches = list(datamodule.train_dataloader())
            seconds = time.perf_counter() - began
            datamodule.start_step += num_batches
            tokens[view].append(sum(int(batch.num_tokens()) for batch in batches) / num_batches)
            return seconds / num_batches

        measure()  # the pages of the store
        tokens[view].clear()
        return measure

    times = in_turns({view: contestant(view) for view in VIEWS}, max(options.rounds, 2), "batches")
    step = options.step_seconds
    columns = ("view", "built, s", "ms a batch", "batches/s", "tokens/s", f"share of a {step:g} s step, %")
    report.begin(f"batches of {BATCH_SIZE} rows of {SEQ_LEN} tokens", columns)
    for view, seconds in times.items():
        pairs = zip(tokens[view], seconds.values, strict=True)
        report.row(
            view=view,
            built_seconds=built[view],
            milliseconds=seconds.times(1000),
            batches_per_second=seconds.per(1),
            tokens_per_second=Sample(tuple(count / taken for count, taken in pairs)),
            share_of_step=100 * seconds.median / step,
        )


# ---------------------------------------------------------------------------------- start


def measure_start(report: Report, options: argparse.Namespace, folder: Path) -> None:
    """One training command of a single step, again and again, over the corpus that was prepared."""
    loggers = ["csv"] if options.quick else ["csv", "wandb"]
    stages: dict[str, list[dict[str, float]]] = {logger: [] for logger in loggers}

    def start(logger: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as run:
            reached = in_child(
                "benchmarks.start",
                str(time.time()),
                "data=text",
                f"data.train='{options.text}'",
                f"tokenizer.vocab_size={options.vocab_size}",
                f"cache_dir='{folder / 'cache'}'",
                f"hydra.run.dir='{run}/run'",
                f"logger={logger}",
                f"batch_size={BATCH_SIZE}",
                f"seq_len={SEQ_LEN}",
                *("model=bert", f"size={'tiny' if options.quick else 'mini'}", "budget.steps=1"),
                environment={"WANDB_MODE": "offline"},
            )
        moments = [0.0, *reached.values()]
        taken = [after - before for before, after in pairwise(moments)]
        stages[logger].append(dict(zip(reached, taken, strict=True)))
        return reached["first step"]

    if not options.quick:
        start("csv")  # what it reads is in the disk's cache afterwards
        stages["csv"].clear()
    whole = in_turns({name: lambda name=name: start(name) for name in loggers}, options.rounds, "starting")
    report.begin("from a command to its first step", ("stage", *(f"logger={name}, s" for name in loggers)))
    for stage in stages["csv"][0]:
        cells = {name: Sample(tuple(each[stage] for each in stages[name])) for name in loggers}
        report.row(stage=stage, **cells)
        if stage == "first step":
            report.row(stage="**to the end of the first step**", **whole)
    measure_imports(report, options)


def measure_imports(report: Report, options: argparse.Namespace) -> None:
    """New processes that only import: what no code of ours can save, and what transformers waits for."""
    imports = {"nothing": "pass"}
    if not options.quick:
        imports |= {"torch": "import torch", "Lightning": "import lightning"}
        if find_spec("transformers"):
            imports["transformers' Trainer"] = "from transformers import Trainer"
        else:
            report.note("transformers is not installed: left out")

    def run(code: str) -> float:
        return seconds_of_one(lambda: subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT))

    times = in_turns(
        {name: lambda code=code: run(code) for name, code in imports.items()}, options.rounds, "imports"
    )
    report.begin("a new process that only imports", ("what", "seconds"))
    for name, seconds in times.items():
        report.row(what=name, seconds=seconds)


# ---------------------------------------------------------------------------------- shared


def data_config(text: Path) -> DataConfig:
    return DataConfig(source="text", train=str(text))


def tokenizer_config(vocab_size: int, name: str = "bpe") -> TokenizerConfig:
    return TokenizerConfig(name=name, vocab_size=vocab_size)


def documents_of(text: Path):
    return read_documents(resolve_paths(str(text), "text"))


def seconds_of_one(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def child(kind: str, *arguments: str) -> Any:
    """A measurement of ``CHILDREN`` in a process of its own."""
    return in_child("benchmarks.data", "--child", kind, *arguments)


CHILDREN: dict[str, Callable[..., dict[str, float]]] = {
    "tokenizer": train_one,
    "prepare": prepare_one,
    "parts": parts_of_one,
}

if __name__ == "__main__":
    main()
