"""The tokenizer of a corpus: loaded, or trained on a sample that any number of processes gather."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from lmzoo.data.config import DataConfig
from lmzoo.data.corpus import Corpus, Sample
from lmzoo.data.processes import in_processes
from lmzoo.errors import LmzooError
from lmzoo.progress import progress
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer


def make_tokenizer(shards: list[Corpus], config: TokenizerConfig, data: DataConfig) -> TextTokenizer:
    """Load the tokenizer, or train it on a sample of the training part, which `data.processes` gather.

    Raises:
        LmzooError: no such file, settings that do not go with the text, a part that would be empty.
    """
    if config.file is not None:
        return load_tokenizer(Path(config.file))
    if config.sample_megabytes < 1:
        raise LmzooError(
            f"tokenizer.sample_megabytes={config.sample_megabytes} is too small; give at least 1"
        )
    processes = min(data.processes, len(shards))
    gather = partial(_gather, max_bytes=config.sample_megabytes * 1_000_000)
    sample, counts = Sample(config.sample_megabytes * 1_000_000), Counter[str]()
    with progress("reading the text", total_of(shards)) as advance:
        shares = [shards[first::processes] for first in range(processes)]
        gathered = (
            in_processes(gather, shares, processes, advance)
            if processes > 1
            else (gather(share, advance) for share in shares)
        )
        for some, count in gathered:
            sample.merge(some)
            counts.update(count)
    check_parts(data, counts)
    with progress("training the tokenizer"):
        return train_tokenizer(config, sample.texts())


def _gather(
    shards: list[Corpus], advance: Callable[[int], object], *, max_bytes: int
) -> tuple[Sample, Counter[str]]:
    """A sample of the training documents of some shards, and how many documents each part has."""
    sample, counts = Sample(max_bytes), Counter[str]()
    for shard in shards:
        for part, document in shard.read(advance):
            counts[part] += 1
            if part == "train":
                sample.add(document.text)
    return sample, counts


def check_parts(data: DataConfig, counts: dict[str, int]) -> None:
    """Raises LmzooError where no document is left for training, or none for validation.

    Args:
        data: whose settings decided that.
        counts: documents by part.
    """
    held_out = f"data.valid_fraction={data.valid_fraction} holds out {counts.get('valid', 0)}"
    total = counts.get("train", 0) + counts.get("valid", 0)
    if not counts.get("train"):
        raise LmzooError(
            f"no document is left for training: {held_out} of {total}; lower it or add documents"
        )
    if not counts.get("valid"):
        raise LmzooError(
            f"no document is left for validation: {held_out} of {total}; raise data.valid_fraction, give "
            "data.valid, or give more documents (a blank line parts them)"
        )


def total_of(shards: Iterable[Corpus]) -> int | None:
    """What reading all of them tells its ``advance``; None where nobody knows."""
    totals = [shard.total for shard in shards]
    return None if None in totals else sum(total for total in totals if total is not None)
