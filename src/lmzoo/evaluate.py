"""`python -m lmzoo.evaluate`: zero-shot yardsticks of a trained model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lmzoo import cli
from lmzoo.arguments import parse
from lmzoo.errors import LmzooError
from lmzoo.objectives.config import READINGS
from lmzoo.places import data_root
from lmzoo.snapshots import chosen as chosen_snapshots

if TYPE_CHECKING:
    from lmzoo.data.store import Store
    from lmzoo.settings import TrainConfig

_LENGTH = 128
"""Tokens of a block where nobody knows on how many a model was trained."""


@dataclass
class Evaluate:
    """Measure what a model has learned, the same way for every kind, without training it further.

    bits_per_byte and pseudo_likelihood: what it pays for a text. minimal_pairs: whether it finds the
    acceptable sentence likelier. corpus_pairs: the same on held-out sentences and damaged twins of them.
    words_in_context and word_senses: whether a word's vectors tell its senses. contextuality: how far its
    vectors depend on the context. length_extrapolation: what it pays for a text in rows longer than it was trained
    on. quick: what needs no file beside the run's validation text; all: the rest
    too. Each is written to evaluations/NAME.json in the run folder, item by item in NAME.items.jsonl.gz;
    what has no meaning for a kind of model is written as null, with the reason."""

    examples: ClassVar[str] = """\
        lmzoo evaluate run=outputs/DATE/TIME
        lmzoo evaluate run=outputs/DATE/TIME yardstick=minimal_pairs pairs=blimp.jsonl.gz precision=bf16
        lmzoo evaluate run=outputs/DATE/TIME at=all yardstick=corpus_pairs
        lmzoo evaluate run=my-bert yardstick=[pseudo_likelihood,corpus_pairs] text=my.txt to=measured"""

    run: str
    """A run folder or a Hugging Face folder."""
    yardstick: list[str] = field(default_factory=lambda: ["quick"])
    """One or several: bits_per_byte, pseudo_likelihood, minimal_pairs, corpus_pairs, words_in_context,
    word_senses, contextuality, length_extrapolation, quick, all."""
    at: str | None = None
    """A checkpoint within the run, by its step, or all of checkpoint.log_spaced: evaluations/step-N/NAME.json,
    with what the run had cost by then."""
    text: str | None = None
    """A held-out text, in the layout of data.train; without it the run's own validation text."""
    pairs: str | None = None
    """Minimal pairs in BLiMP's format (.jsonl, also packed)."""
    reading: str | None = field(default=None, metadata={"choices": READINGS})
    """What rows see, past or full, of a model that was trained for both (hybrid, prefix, phases); without it
    past for bits_per_byte, and full for all that either will do for. One that is asked for is written to
    evaluations/reading-past/ or reading-full/."""
    root: str | None = None
    """The folder with zeroshot/ and wsd/; without it the one that the environment variable LMZOO_DATA
    names."""
    to: str | None = None
    """The folder in which evaluations/ is made, if not the run folder."""
    limit: int | None = None
    """Items of each group at most, the first ones; for a trial."""
    ngram_tokens: int = 4_000_000
    """Tokens of the run's training text that the n-gram model beside bits_per_byte and minimal_pairs counts,
    from its beginning: a million takes a second and 120 MB of memory; 0 leaves it out."""
    batch_tokens: int | None = None
    """Tokens of a batch, padding included; without it 2,048 on a CPU, whose cache they fit, and 16,384
    elsewhere."""
    device: str = "cpu"
    """As PyTorch names it: cpu, cuda."""
    precision: str = field(default="fp32", metadata={"choices": ("fp32", "bf16", "fp16")})
    """Of the products; bf16 takes about half the time where the processor has it, fp16 needs a GPU."""


def main(argv: list[str] | None = None) -> None:
    """Measure what the command line says.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    with cli.one_line():
        wanted = parse(list(sys.argv[1:] if argv is None else argv), "evaluate", Evaluate)
        if wanted is not None:
            _evaluate(wanted)


def _evaluate(wanted: Evaluate) -> None:
    from lmzoo.yardsticks.registry import TEXTS, named

    chosen = named(wanted.yardstick)
    most = wanted.ngram_tokens
    if most < 0:
        raise LmzooError(f"ngram_tokens={most} is negative; 0 leaves the n-gram model out")
    root = data_root(wanted.root)
    text, pairs = (_file(key, getattr(wanted, key)) for key in ("text", "pairs"))
    if pairs is not None and "minimal_pairs" not in chosen:
        raise LmzooError(
            f"pairs={wanted.pairs} goes with yardstick=minimal_pairs; add it, or leave pairs= out"
        )
    if text is not None and not set(TEXTS) & set(chosen):
        raise LmzooError(f"text={wanted.text} goes with yardstick={', '.join(TEXTS)}; leave it out")
    run = run_folder(Path(wanted.run).expanduser())
    folder = _target(wanted, run)
    if wanted.at is not None and run is None:
        raise LmzooError(
            f"at={wanted.at} names a checkpoint within a run, and run={wanted.run} is no run folder"
        )
    snapshots = [None] if wanted.at is None or run is None else chosen_snapshots(run, wanted.at)
    store, sentences = None, "split"
    if run is not None:
        from lmzoo.config import load_config

        config = load_config(run / "config.yaml")
        store, sentences = store_of(config, run), config.data.sentences
    from lmzoo.hub.describe import describe
    from lmzoo.inference.model import load  # torch, after the arguments have been accepted
    from lmzoo.yardsticks.base import Asked, place_of
    from lmzoo.yardsticks.counted import counted_of
    from lmzoo.yardsticks.run import batch_tokens_of, evaluate

    began = time.perf_counter()
    length = describe(wanted.run).seq_len or _LENGTH
    asked = Asked(
        text=text,
        pairs=pairs,
        root=root,
        validation=None if store is None else lambda: _validation(store),
        counted=None if store is None or not most else cache(lambda: counted_of(store(), most)),
        sentences=sentences,
        seq_len=length,
        limit=wanted.limit,
        batch_tokens=batch_tokens_of(wanted.device) if wanted.batch_tokens is None else wanted.batch_tokens,
    )
    found = 0
    for snapshot in snapshots:
        place = "" if snapshot is None else f"{snapshot.name:<12}"
        model = load(
            wanted.run if snapshot is None else snapshot.model,
            device=wanted.device,
            precision=wanted.precision,
            reading=wanted.reading,
        )
        found += len(
            evaluate(
                model,
                wanted.yardstick,
                asked,
                folder,
                snapshot=snapshot,
                tell=lambda line, place=place: print(place + line, flush=True),
            )
        )
    if found:
        # of several checkpoints the folder that holds theirs
        place = place_of(folder, reading=wanted.reading if wanted.at is None else None)
        print(f"in {place}, {time.perf_counter() - began:.1f} s in all", flush=True)


def _file(key: str, given: str | None) -> Path | None:
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_file():
        raise LmzooError(f"{key}={given} {'is a folder' if path.is_dir() else 'does not exist'}; give a file")
    return path


def run_folder(path: Path) -> Path | None:
    """The run folder that ``path`` is, or whose model folder it is; None where it is neither."""
    for folder in (path, path.parent):
        if (folder / "config.yaml").is_file() and (folder == path or path.name == "model"):
            return folder
    return None


def _target(wanted: Evaluate, run: Path | None) -> Path:
    """Where the evaluations go.

    Raises:
        LmzooError: it is not said, and the model comes from the hub.
    """
    if wanted.to is not None:
        return Path(wanted.to).expanduser()
    folder = run or Path(wanted.run).expanduser()
    if not folder.is_dir():
        raise LmzooError(f"run={wanted.run} is no folder here; give to=FOLDER, where evaluations/ is to lie")
    return folder


def store_of(config: TrainConfig, folder: Path) -> Callable[[], Store]:
    """What gives a run's prepared corpus, the same one as in its training.

    Raises:
        LmzooError: when it is called, and the corpus cannot be had any more, or is another one by now.
    """

    @cache
    def store() -> Store:
        from lmzoo.data.prepare import default_cache_dir, prepare

        try:
            found = prepare(config.data, config.tokenizer, Path(config.cache_dir or default_cache_dir()))
        except LmzooError as error:
            raise LmzooError(f"the run's text cannot be had ({error})") from error
        record = folder / "metrics.json"
        known = json.loads(record.read_text("utf-8"))["run"].get("content") if record.is_file() else None
        if known not in (None, found.content):
            raise LmzooError(f"run={folder}: its text or tokenizer is not what it was trained with")
        return found

    return store


def _validation(store: Callable[[], Store]) -> list[list[str]]:
    from lmzoo.yardsticks.run import sentences_of

    try:
        return sentences_of(store())
    except LmzooError as error:
        raise LmzooError(f"{error}; give text=FILE, a held-out text") from error


if __name__ == "__main__":
    main()
