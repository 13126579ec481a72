"""Preparations in processes of their own, for the tests in which they meet, are killed or run out of disk."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpora import made_documents, write_text
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare, prepare_shards
from lmzoo.data.store import Store
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig

SMALL = TokenizerConfig(vocab_size=300)
ARRAYS = ("tokens", "documents", "sentences", "document_sentences", "unigrams")
# a server that has imported all of it makes a process in milliseconds, without this one's threads
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lmzoo.data.prepare"])


def write_corpus(folder: Path, files: int, documents: int = 12, sentences: int = 6) -> DataConfig:
    """A text in many files, of which no two are of one size."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        made = made_documents(documents + number, seed=number, sentences=sentences)
        write_text(folder / f"{number:02d}.txt", made)
    return DataConfig(source="text", train=str(folder / "*.txt"), valid_fraction=0.2)


def files_of(store: Path) -> dict[str, bytes]:
    """Every file of a folder with its content."""
    return {
        path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()
    }


def arrays_of(store: Store) -> dict[str, np.ndarray]:
    return {
        f"{name}/{array}": np.asarray(getattr(part, array))
        for name, part in store.parts.items()
        for array in ARRAYS
    }


def same(one: Store, other: Store) -> bool:
    """Whether two stores hold the same, however they are laid out."""
    left, right = arrays_of(one), arrays_of(other)
    return (
        left.keys() == right.keys()
        and all(np.array_equal(left[name], right[name]) for name in left)
        and one.tokenizer.fingerprint() == other.tokenizer.fingerprint()
        and one.text_bytes == other.text_bytes
        and one.content == other.content
    )


@dataclass
class Preparation:
    """One that was started; what it says and what comes of it lies in ``folder``."""

    process: Any
    folder: Path

    def wait(self, seconds: float = 60) -> int:
        """Its exit status, or minus the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still at it after {seconds} s: {self.said}"
        return self.process.exitcode

    def kill(self) -> bool:
        """Whether it came in time."""
        os.kill(self.process.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    @property
    def said(self) -> str:
        """On its standard error, so far."""
        path = self.folder / "said"
        return path.read_text() if path.exists() else ""

    @property
    def outcome(self) -> dict[str, Any]:
        return json.loads((self.folder / "outcome").read_text())


def start(
    folder: Path,
    data: DataConfig,
    cache: Path,
    *,
    share: str | None = None,
    setup: Callable[[], object] | None = None,
) -> Preparation:
    """Prepare a text in a new process.

    Args:
        folder: new; for what it says and what comes of it.
        data: the text.
        cache: as `prepare` takes it.
        share: a job's; all of it without.
        setup: called in the process before all else.
    """
    folder.mkdir(parents=True)
    process = CONTEXT.Process(target=_run, args=(folder, asdict(data), cache, share, setup))
    process.start()
    return Preparation(process, folder)


def _run(folder: Path, data: dict, cache: Path, share: str | None, setup: Callable[[], object] | None):
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if setup is not None:
        setup()
    status = 0
    try:
        if share is None:
            store = prepare(DataConfig(**data), SMALL, cache)
        else:
            store = prepare_shards(DataConfig(**data), SMALL, cache, share).store
        outcome = {} if store is None else {"hash": store.hash, "content": store.content}
    except LmzooError as error:
        outcome, status = {"error": str(error)}, 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (folder / "outcome").write_text(json.dumps(outcome))
    os._exit(status)


def pausing(where: str, reached: Path, until: Path) -> None:
    """In a process that was started: have a function of a module write to ``reached`` before all else, and
    wait for ``until`` to be there."""
    module_name, _, name = where.rpartition(".")
    module = importlib.import_module(module_name)
    plain = getattr(module, name)

    def paused(*args: Any, **more: Any) -> Any:
        with reached.open("a") as file:
            file.write(f"{os.getpid()}\n")
        wait_for(until)
        return plain(*args, **more)

    setattr(module, name, paused)


def limited(num_bytes: int) -> None:
    """In a process that was started: no file of it, nor of those that it starts, may grow beyond this, as if
    the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def unprivileged(outcomes: Path) -> None:
    """In a process that was started: go on as a user for whom permissions count, and who may write here."""
    for path in outcomes.iterdir():
        os.chmod(path, 0o777)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def wait_for(path: Path, seconds: float = 60) -> None:
    wait_until(path.exists, seconds)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.01)


# ---------------------------------------------------------------------------------- work for processes
# here, because a new process imports the module that its work stands in, and this one needs no torch


def doubled(item: int, advance: Callable[[int], None]) -> int:
    advance(item)
    return 2 * item


def failing(item: int, advance: Callable[[int], None], *, error: Exception) -> int:
    if item == 2:
        raise error
    return item


def dying(item: int, advance: Callable[[int], None]) -> int:
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item
