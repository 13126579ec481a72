"""`python -m lmzoo.prepare`: the corpus and the tokenizer alone, before any run."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from lmzoo import cli
from lmzoo.errors import LmzooError


def main(argv: list[str] | None = None) -> None:
    """Find or build the store that a run with these arguments would use, and say what is in it.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if cli.wants_help(argv, "prepare"):
        return
    with cli.one_line():
        flags = [argument for argument in argv if argument.startswith("-")]
        if flags:
            raise LmzooError(f"{flags[0]} is not known: prepare takes KEY=VALUE only; --help lists them")
        print(prepared(argv))


def prepared(overrides: list[str]) -> str:
    """Prepare, and describe the store in a few lines."""
    from lmzoo.config import compose

    config = compose(overrides)
    from lmzoo.data.prepare import default_cache_dir, prepare  # numpy and more, after the config is accepted

    start = time.perf_counter()
    store = prepare(config.data, config.tokenizer, Path(config.cache_dir or default_cache_dir()))
    seconds = time.perf_counter() - start
    lines = [f"store       {store.folder}"]
    for name, part in store.parts.items():
        num_bytes = store.text_bytes[name]
        lines.append(
            f"{name:<11} {part.num_documents:,} documents, {part.num_tokens:,} tokens, {num_bytes:,} bytes, "
            f"{num_bytes / part.num_tokens:.2f} bytes a token"
        )
    lines += [
        f"vocabulary  {store.tokenizer.vocab_size:,} pieces",
        f"unigrams    {store.unigram_entropy():.3f} nats a token (validation under the training part's)",
        f"time        {seconds:.1f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
