"""How fast trained models are used: loading, embedding against transformers, generating with the cache.

``python -m benchmarks.inference`` makes models with drawn weights in a temporary folder and measures

- loading: seconds of ``lmzoo.load`` on ``model=bert_2018`` at the papers' vocabulary, each time in a new
  process whose imports are not counted, beside transformers' ``from_pretrained`` on the same folder;
- embedding: the sentences of the shared corpus books.valid, by ``embed_stream`` with everything that belongs
  to it, against transformers' forward passes alone, on the same weights and in the same batches; and the
  peak of resident memory after a quarter of the sentences and after all of them;
- generating: a causal model's continuation of a prompt, with and without the cache.

Contestants take turns, so that a stall of the machine hits both; figures are medians with their range. For a
quick look: ``--load-size tiny --embed-size tiny --sentences 400 --new-tokens 32 --repeats 2``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from lmzoo.config import compose
from lmzoo.hub.folder import export_model
from lmzoo.inference.engine import BATCH_TOKENS, by_length
from lmzoo.inference.model import LanguageModel, load
from lmzoo.modules import MODULES
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.sentences import sentence_spans
from lmzoo.text.tokenizer import TextTokenizer, train_tokenizer
from lmzoo.types import SpecialTokens

BOOKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "pretrain" / "books.valid.txt.gz"
VOCAB_SIZE = {"bert_2018": 30522, "gpt": 8192}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, default=BOOKS, help="corpus of the sentences, .txt.gz")
    parser.add_argument("--load-size", default="base")
    parser.add_argument("--embed-size", default="small")
    parser.add_argument("--sentences", type=int, default=10_000)
    parser.add_argument("--generate-size", default="mini", help="of model=gpt; mini is L4 d256")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["load", "embed", "generate"])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(in_this_process(*options.child)))
        return
    if not options.text.is_file():
        print(f"skipped: {options.text} is not there, whose sentences are to be embedded; give --text")
        return
    sentences = read_sentences(options.text, max(options.sentences, 10_000))
    tokenizer = train_tokenizer(TokenizerConfig(), sentences)
    sentences = sentences[: options.sentences]
    figures: dict[str, Any] = {"threads": torch.get_num_threads(), "sentences": len(sentences)}
    with tempfile.TemporaryDirectory(prefix="lmzoo-inference-") as folder:
        work = Path(folder)
        print("| what | ours | the other | ratio |\n|---|---|---|---|")
        if options.only in (None, "load"):
            figures["load"] = measure_load(work, tokenizer, options)
        if options.only in (None, "embed"):
            figures["embed"] = measure_embed(work, tokenizer, sentences, options)
        if options.only in (None, "generate"):
            figures["generate"] = measure_generate(tokenizer, sentences, options)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------- the figures


def measure_load(work: Path, tokenizer: TextTokenizer, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of opening an exported model, in processes of their own."""
    folder = work / "load"
    export(folder, "bert_2018", "mlm_nsp", options.load_size, tokenizer)
    for kind in ("load", "load_transformers"):  # the disk is warm afterwards
        in_child(kind, folder, "-")
    times = in_turn(
        {
            "ours": lambda: in_child("load", folder, "-")["seconds"],
            "transformers": lambda: in_child("load_transformers", folder, "-")["seconds"],
        },
        options.repeats,
    )
    return told(f"load bert_2018 {options.load_size}, s", times)


def measure_embed(
    work: Path, tokenizer: TextTokenizer, sentences: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of embedding, and peaks of memory for a quarter of the sentences and for all."""
    folder = work / "embed"
    export(folder, "bert_2018", "mlm", options.embed_size, tokenizer)
    model = load(folder)
    theirs = transformers_forward(folder, tokenizer, sentences)
    consume(model.embed_stream(sentences[:64], pooling="mean"))
    times = in_turn(
        {
            "ours": timed(lambda: consume(model.embed_stream(sentences, pooling="mean"))),
            "transformers": timed(theirs),
        },
        options.repeats,
    )
    found = told(f"embed {len(sentences):,} sentences, bert_2018 {options.embed_size}, s", times)
    texts = work / "sentences.txt"
    peaks = {}
    for count in (len(sentences) // 4, len(sentences)):
        texts.write_text("\n".join(sentences[:count]), encoding="utf-8")
        peaks[count] = in_child("peak", folder, str(texts))["peak_bytes"]
    few, many = peaks
    print(f"| peak MB, {many:,} and {few:,} sentences | {peaks[many] / 1e6:.0f} | {peaks[few] / 1e6:.0f} "
          f"| {peaks[many] / peaks[few]:.2f} |")  # fmt: skip
    return found | {"peak_bytes": {str(count): peak for count, peak in peaks.items()}}


def measure_generate(
    tokenizer: TextTokenizer, sentences: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of one greedy continuation that does not end before its time."""
    for seed in range(1, 100):
        model = LanguageModel(build("gpt", "clm", options.generate_size, seed)[0], tokenizer)

        def go_on(use_cache: bool, model: LanguageModel = model) -> int:
            return len(model.generate([sentences[0]], options.new_tokens, use_cache=use_cache)[0].ids)

        if go_on(True) == options.new_tokens:
            break
    else:
        raise RuntimeError("every model that was drawn ended its text at once")
    times = in_turn(
        {"cache": timed(lambda: go_on(True)), "no cache": timed(lambda: go_on(False))}, options.repeats
    )
    return told(f"generate {options.new_tokens} tokens, gpt {options.generate_size}, s", times)


# ---------------------------------------------------------------------------------- contestants


def build(name: str, objective: str, size: str, seed: int = 1):
    """A module with drawn weights and its completed config."""
    config = compose([f"model={name}", f"objective={objective}", f"size={size}", "seq_len=512"]).model
    special = SpecialTokens(VOCAB_SIZE[name])
    module = MODULES[name](objective, model=config, special=special, seed=seed)
    return module.eval(), config


def export(folder: Path, name: str, objective: str, size: str, tokenizer: TextTokenizer) -> None:
    module, config = build(name, objective, size)
    export_model(folder, module, config, 512, tokenizer)


def transformers_forward(
    folder: Path, tokenizer: TextTokenizer, sentences: list[str]
) -> Callable[[], object]:
    """Every sentence through transformers' model, in the batches that ours makes, as means of states."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    special = tokenizer.special
    rows = [[special.cls, *ids, special.sep] for ids in tokenizer.encode_batch(sentences)]

    def forward() -> None:
        for group in by_length([len(row) for row in rows], BATCH_TOKENS):
            longest = len(rows[group[0]])
            tokens = torch.tensor([rows[i] + [special.pad] * (longest - len(rows[i])) for i in group])
            inside = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in group])
            with torch.inference_mode():
                states = model(input_ids=tokens, attention_mask=inside).last_hidden_state
                (states * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)

    return forward


def in_child(kind: str, folder: Path, texts: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.inference", "--child", kind, str(folder), texts]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def in_this_process(kind: str, folder: str, texts: str) -> dict[str, float]:
    """What one measurement in a new process gives."""
    if kind == "load_transformers":
        from transformers import BertForPreTraining

        return {"seconds": timed(lambda: BertForPreTraining.from_pretrained(folder))()}
    if kind == "load":
        return {"seconds": timed(lambda: load(folder))()}
    with open(texts, encoding="utf-8") as lines:
        consume(load(folder).embed_stream((line.rstrip("\n") for line in lines), pooling="mean"))
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


# ---------------------------------------------------------------------------------- taking turns


def in_turn(contestants: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each contestant's seconds, taken alternately."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            times[name].append(run())
    return times


def timed(run: Callable[[], object]) -> Callable[[], float]:
    def measured() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return measured


def told(what: str, times: dict[str, list[float]]) -> dict[str, Any]:
    """A row of the table, and the same as values."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    cells = [
        f"{name} {medians[name]:.3g} ({min(seconds):.3g} to {max(seconds):.3g})"
        for name, seconds in times.items()
    ]
    ours, other = medians.values()
    print(f"| {what} | {' | '.join(cells)} | {ours / other:.2f} |", flush=True)
    return {"seconds": times, "medians": medians, "ratio": ours / other}


def consume(stream: Iterable[object]) -> None:
    for _ in stream:
        pass


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
