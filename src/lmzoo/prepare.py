"""`python -m lmzoo.prepare`: the corpus and the tokenizer alone, before any run; or a job's share of that."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmzoo import cli
from lmzoo.errors import LmzooError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lmzoo.data.store import Store

SHARE = "shard"
"""The key that is a job's own; nothing of a run has it, so it is none of the config's."""
_SWEEP = ("-m", "--multirun")


def main(argv: list[str] | None = None) -> None:
    """Find or build the store that a run with these arguments would use, and say what is in it.

    With ``shard=`` build that share of it; with ``-m`` do so for each of several, as Hydra's launcher says.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if cli.wants_help(argv, "prepare"):
        return
    with cli.one_line():
        flags = [argument for argument in argv if argument.startswith("-") and argument not in _SWEEP]
        if flags:
            raise LmzooError(f"{flags[0]} is not known: prepare takes KEY=VALUE and -m; --help lists them")
        if set(_SWEEP) & set(argv):
            if not any(argument.startswith(f"{SHARE}=") for argument in argv):
                raise LmzooError(
                    "-m prepares shards, each in a job of its own: give shard=0,1,2 or so with it"
                )
            from lmzoo.adoption import with_adopted
            from lmzoo.config import composed
            from lmzoo.folders import end_sweep
            from lmzoo.sweeps.launch import launch

            shares = _Shares()
            try:
                launch(shares.start, with_adopted(_as_added(argv), composed))
            finally:
                end_sweep()
            shares.conclude()
        else:
            print(prepared(argv))


def prepared(overrides: list[str]) -> str:
    """Prepare, and describe the store, or what a job did, in a few lines."""
    from lmzoo.adoption import with_adopted
    from lmzoo.config import composed

    return _prepared(composed(with_adopted(_as_added(overrides), composed)))


def _as_added(argv: list[str]) -> list[str]:
    """``shard=`` as Hydra wants a key that the config does not have."""
    return [f"+{argument}" if argument.startswith(f"{SHARE}=") else argument for argument in argv]


class _Shares:
    """The jobs of a sweep over shards, which need no folder of their own, and what became of them."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.count = 0
        self.failed: list[str] = []

    def start(self, cfg: DictConfig) -> None:
        """One job. An error is told and kept, not raised: Hydra would add lines of its own to it."""
        from hydra.core.hydra_config import HydraConfig

        from lmzoo.folders import remove_empty

        settings = HydraConfig.get()
        name = f"job {settings.job.num} ({' '.join(settings.overrides.task)})"
        self.count += 1
        try:
            print(_prepared(cfg), flush=True)
        except Exception as error:
            if os.getpid() != self.process:  # a launcher's worker: only an exception finds its way back
                raise
            if not isinstance(error, LmzooError):
                traceback.print_exception(error)
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            self.failed.append(name)
        finally:
            remove_empty(Path(settings.runtime.output_dir))

    def conclude(self) -> None:
        """Raise LmzooError that names the jobs that failed, if any did."""
        if self.failed:
            raise LmzooError(f"{len(self.failed)} of {self.count} jobs failed: {'; '.join(self.failed)}")


def _prepared(cfg: DictConfig) -> str:
    from omegaconf import open_dict

    from lmzoo.config import from_hydra, resolve

    with open_dict(cfg):
        share: Any = cfg.pop(SHARE, None)
    config = resolve(from_hydra(cfg))
    from lmzoo.data import prepare as room  # numpy and more, after the config is accepted

    cache = Path(config.cache_dir or room.default_cache_dir())
    start = time.perf_counter()
    lines = []
    if share is None:
        store = room.prepare(config.data, config.tokenizer, cache)
    else:
        done = room.prepare_shards(config.data, config.tokenizer, cache, str(share))
        store = done.store
        asked = ", ".join(map(str, done.asked)) or "none"
        lines.append(f"shards      {asked}: finished; {done.finished} of {done.total} altogether")
    if store is not None:
        lines += _described(store)
    lines.append(f"time        {time.perf_counter() - start:.1f} s")
    return "\n".join(lines)


def _described(store: Store) -> list[str]:
    lines = [f"store       {store.folder}"]
    for name, part in store.parts.items():
        num_bytes = store.text_bytes[name]
        lines.append(
            f"{name:<11} {part.num_documents:,} documents, {part.num_tokens:,} tokens, {num_bytes:,} bytes, "
            f"{num_bytes / part.num_tokens:.2f} bytes a token"
        )
    return [
        *lines,
        f"vocabulary  {store.tokenizer.vocab_size:,} pieces",
        f"unigrams    {store.unigram_entropy():.3f} nats a token (validation under the training part's)",
    ]


if __name__ == "__main__":
    main()
