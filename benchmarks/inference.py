"""How fast trained models are used: opened, embedding, scoring and generating, beside transformers.

Models with drawn weights are made in a temporary folder; the sentences are those of the shared corpus
books.valid, or of ``--text``. Everything is in fp32, and what contestants give is compared first.

- load: seconds of ``lmzoo.load`` on ``bert_2018`` at the paper's vocabulary, each time in a new process
  whose imports are not counted, beside transformers' ``from_pretrained`` on the same folder;
- embed: sentences to mean vectors by ``embed_stream`` with everything that belongs to it, against
  transformers' forward passes alone, on the same weights and in the same batches; and the peak of resident
  memory of one process after a quarter of the sentences and after all of them;
- score: log-likelihoods by ``gpt2`` (vocabulary 50,257), and pseudo-log-likelihoods by ``bert_2018``, each
  token masked alone; against a plain loop over transformers' logits on the same weights and in the same
  batches of the same rows, the tokenizer not counted there either;
- generate: a greedy continuation by ``gpt`` with and without the cache, and by transformers' ``generate``
  on the same weights with its cache.

Contestants take turns over rounds; figures are medians with their range.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import seconds_of_one
from benchmarks.inference_theirs import (
    quieten,
    transformers_continuation,
    transformers_likelihoods,
    transformers_means,
    transformers_pseudo_likelihoods,
)
from benchmarks.measure import BOOKS, Report, Sample, in_child, in_turns, parser, peak_bytes, seconds_of
from lmzoo.config import compose
from lmzoo.hub.folder import export_model
from lmzoo.inference.model import LanguageModel, load
from lmzoo.modules import MODULES
from lmzoo.nn.sizes import PUBLISHED_SIZES
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer, train_tokenizer
from lmzoo.types import SpecialTokens

VOCAB_SIZE = {"bert_2018": 30522, "gpt2": 50257, "gpt": 8192}
PARTS = ("load", "embed", "score", "generate")
TOLERANCE = 1e-3
"""Largest difference between what contestants give, as a share of 1 or of the value if that is larger."""


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--text", type=Path, default=BOOKS["valid"], help="corpus of the sentences, .txt.gz")
    made.add_argument("--load-size", default="base")
    made.add_argument("--embed-size", default="small", help="of the models that embed and score")
    made.add_argument("--sentences", type=int, default=10_000, help="that are embedded")
    made.add_argument("--scored", type=int, default=300, help="sentences; a tenth of them token by token")
    made.add_argument("--generate-size", default="mini", help="of model=gpt; mini is L4 d256")
    made.add_argument("--new-tokens", type=int, default=256)
    made.add_argument("--only", choices=PARTS)
    made.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = made.parse_args(arguments)
    if options.child:
        kind, *rest = options.child
        print(json.dumps(CHILDREN[kind](*rest)))
        return
    if not options.text.is_file():
        print(f"skipped: {options.text} is not there, whose sentences are to be read; give --text")
        return
    if options.quick:
        options.load_size = options.embed_size = options.generate_size = "tiny"
        options.sentences, options.scored, options.new_tokens, options.rounds = 100, 20, 16, 1
    for_tokenizer, vocab_size = (2_000, 2048) if options.quick else (10_000, 8192)
    sentences = read_sentences(options.text, max(options.sentences, options.scored, for_tokenizer))
    tokenizer = train_tokenizer(TokenizerConfig(vocab_size=vocab_size), sentences)
    report = Report("inference", {"text": options.text.name, "precision": "fp32", "rounds": options.rounds})
    with_theirs = find_spec("transformers") is not None
    if with_theirs:
        quieten()
    else:
        report.note("transformers is not installed: it is left out")
    with tempfile.TemporaryDirectory(prefix="lmzoo-inference-") as name:
        folder = Path(name)
        for part in [options.only] if options.only else PARTS:
            MEASURES[part](report, folder, tokenizer, sentences, options, with_theirs)
    report.write(options.json)


# ---------------------------------------------------------------------------------- the figures


def measure_load(
    report: Report,
    folder: Path,
    tokenizer: TextTokenizer,
    sentences: list[str],
    options: argparse.Namespace,
    with_theirs: bool,
) -> None:
    """Seconds of opening an exported model, in processes of their own."""
    place = folder / "load"
    export(place, "bert_2018", "mlm_nsp", options.load_size, tokenizer)
    kinds = {"lmzoo": "load"} | ({"transformers": "load_transformers"} if with_theirs else {})
    contestants = {name: lambda kind=kind: child(kind, str(place))["seconds"] for name, kind in kinds.items()}
    if not options.quick:
        for contestant in contestants.values():  # the disk is warm afterwards
            contestant()
    times = in_turns(contestants, options.rounds, "loading")
    told(report, f"open bert_2018 {options.load_size}", times)


def measure_embed(
    report: Report,
    folder: Path,
    tokenizer: TextTokenizer,
    sentences: list[str],
    options: argparse.Namespace,
    with_theirs: bool,
) -> None:
    """Seconds of embedding, and peaks of memory for a quarter of the sentences and for all."""
    place = folder / "embed"
    export(place, "bert_2018", "mlm", options.embed_size, tokenizer)
    model = load(place)
    sentences = sentences[: options.sentences]
    contestants: dict[str, Callable[[], object]] = {
        "lmzoo, everything": lambda: consume(model.embed_stream(sentences, pooling="mean"))
    }
    if with_theirs:
        few = sentences[:64]
        ours = model.embed(few, pooling="mean")
        agree("embed", torch.as_tensor(ours), transformers_means(place, tokenizer, few)())
        contestants["transformers, forward passes"] = transformers_means(place, tokenizer, sentences)
    times = in_turns(timed(contestants), options.rounds, "embedding")
    told(report, f"embed, bert_2018 {options.embed_size}", times, len(sentences), "sentences")
    texts = folder / "sentences.txt"
    texts.write_text("\n".join(sentences), encoding="utf-8")
    few_bytes, all_bytes = child("peak", str(place), str(texts))["peak_bytes"]
    report.begin("embed, peak of resident memory", ("after sentences", "peak MB"))
    report.row(sentences=len(sentences) // 4, peak_megabytes=few_bytes / 1e6)
    report.row(sentences=len(sentences), peak_megabytes=all_bytes / 1e6)


def measure_score(
    report: Report,
    folder: Path,
    tokenizer: TextTokenizer,
    sentences: list[str],
    options: argparse.Namespace,
    with_theirs: bool,
) -> None:
    """Seconds of log-likelihoods, and of pseudo-log-likelihoods of a tenth of the sentences."""
    kinds = (
        ("log-likelihood", "gpt2", "clm", options.scored),
        ("pseudo-log-likelihood", "bert_2018", "mlm", max(options.scored // 10, 1)),
    )
    for what, name, objective, count in kinds:
        place = folder / f"score-{name}"
        export(place, name, objective, options.embed_size, tokenizer)
        model, texts = load(place), sentences[:count]
        contestants: dict[str, Callable[[], object]] = {
            "lmzoo, everything": lambda model=model, texts=texts: model.score(texts)
        }
        if with_theirs:
            make = transformers_likelihoods if objective == "clm" else transformers_pseudo_likelihoods
            few = texts[:16]
            agree(what, torch.tensor(model.score(few)), make(place, tokenizer, few)())
            contestants["transformers, plain loop"] = make(place, tokenizer, texts)
        times = in_turns(timed(contestants), options.rounds, what)
        told(report, f"score: {what}, {name} {options.embed_size}", times, len(texts), "sentences")


def measure_generate(
    report: Report,
    folder: Path,
    tokenizer: TextTokenizer,
    sentences: list[str],
    options: argparse.Namespace,
    with_theirs: bool,
) -> None:
    """Seconds of one greedy continuation that does not end before its time."""
    prompt, number = sentences[0], options.new_tokens
    for seed in range(1, 100):
        module, config = build("gpt", "clm", options.generate_size, seed)
        model = LanguageModel(module, tokenizer)

        def go_on(use_cache: bool, model: LanguageModel = model) -> list[int]:
            return model.generate([prompt], number, use_cache=use_cache)[0].ids

        expected = go_on(True)
        if len(expected) == number:
            break
    else:
        raise RuntimeError("every model that was drawn ended its text at once")
    agree_exactly("generate without the cache", expected, go_on(False))
    contestants: dict[str, Callable[[], object]] = {
        "lmzoo": lambda: go_on(True),
        "lmzoo without the cache": lambda: go_on(False),
    }
    if with_theirs:
        place = folder / "generate"
        export_model(place, module, config, 512, tokenizer)
        theirs = transformers_continuation(place, tokenizer, prompt, number)
        agree_exactly("generate", expected, theirs())
        contestants["transformers"] = theirs
    times = in_turns(timed(contestants), options.rounds, "generating")
    told(report, f"generate, gpt {options.generate_size}", times, number, "tokens")


MEASURES: dict[str, Callable[..., None]] = {
    "load": measure_load,
    "embed": measure_embed,
    "score": measure_score,
    "generate": measure_generate,
}


def told(
    report: Report, title: str, times: Mapping[str, Sample], amount: int | None = None, what: str = ""
) -> None:
    """A table of contestants, the first of which is held against the others."""
    rate = [] if amount is None else [f"{what}/s"]
    first, *_ = times.values()
    columns = ("contestant", "seconds", *rate, "seconds, against the first")
    report.begin(title if amount is None else f"{title}: {amount:,} {what}", columns)
    for name, seconds in times.items():
        rates = {} if amount is None else {"per_second": seconds.per(amount)}
        report.row(contestant=name, seconds=seconds, **rates, ratio=seconds.median / first.median)


def timed(contestants: Mapping[str, Callable[[], object]]) -> dict[str, Callable[[], float]]:
    return {name: seconds_of(run) for name, run in contestants.items()}


def agree(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """End the benchmark unless two results are the same to ``TOLERANCE``."""
    apart = ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item()
    if not apart <= TOLERANCE:
        raise SystemExit(f"{what}: lmzoo's results and transformers' are {apart:.2g} apart: not compared")


def agree_exactly(what: str, ours: Sequence[int], theirs: Sequence[int]) -> None:
    if list(ours) != list(theirs):
        same = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if len({*pair}) > 1), "all")
        raise SystemExit(f"{what}: the {len(ours)} tokens differ after {same}: not compared")


# ---------------------------------------------------------------------------------- models


def build(name: str, objective: str, size: str, seed: int = 1):
    """A module with drawn weights and its completed config."""
    shape = [f"size={size}"]
    if name == "gpt2" and size not in PUBLISHED_SIZES["gpt2"]:  # of the sizes that BERT was published in
        of = PUBLISHED_SIZES["bert_2018"][size]
        shape = [f"model.{key}={getattr(of, key)}" for key in ("num_layers", "hidden_size", "num_heads")]
        shape.append(f"model.ffn_size={of.ffn_size}")
    config = compose([f"model={name}", f"objective={objective}", "seq_len=512", *shape]).model
    special = SpecialTokens(VOCAB_SIZE[name])
    module = MODULES[name](objective, model=config, special=special, seed=seed)
    return module.eval(), config


def export(folder: Path, name: str, objective: str, size: str, tokenizer: TextTokenizer) -> None:
    module, config = build(name, objective, size)
    export_model(folder, module, config, 512, tokenizer)


# ---------------------------------------------------------------------------------- in another process


def load_one(folder: str) -> dict[str, float]:
    return {"seconds": seconds_of_one(lambda: load(folder))}


def load_transformers(folder: str) -> dict[str, float]:
    from transformers import BertForPreTraining

    quieten()
    return {"seconds": seconds_of_one(lambda: BertForPreTraining.from_pretrained(folder))}


def peaks(folder: str, texts: str) -> dict[str, list[int]]:
    """Peak of memory after a quarter of the lines, and after all of them in a stream."""
    lines = Path(texts).read_text(encoding="utf-8").split("\n")
    model, found = load(folder), []
    for count in (len(lines) // 4, len(lines)):
        consume(model.embed_stream(iter(lines[:count]), pooling="mean"))
        found.append(peak_bytes())
    return {"peak_bytes": found}


CHILDREN: dict[str, Callable[..., Any]] = {
    "load": load_one,
    "load_transformers": load_transformers,
    "peak": peaks,
}


def child(kind: str, *arguments: str) -> Any:
    """A measurement of ``CHILDREN`` in a process of its own."""
    return in_child("benchmarks.inference", "--child", kind, *arguments)


def consume(stream: Iterable[object]) -> None:
    deque(stream, maxlen=0)


def read_sentences(path: Path, count: int) -> list[str]:
    """The first sentences of a packed text."""
    found: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            starts = sentence_spans(line, "split")
            parts = (
                line[start:end].strip() for start, end in zip(starts, [*starts[1:], len(line)], strict=True)
            )
            found += [part for part in parts if part]
            if len(found) >= count:
                break
    return found[:count]


if __name__ == "__main__":
    main()
