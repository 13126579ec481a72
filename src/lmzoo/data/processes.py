"""Work shared out over processes, with their progress, and an end to all of them when one of them ends.

`multiprocessing.Pool` waits for ever where a worker is killed, as the kernel does when memory runs out, and
the workers of `concurrent.futures` outlive a parent that is killed. Here neither happens.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from lmzoo.errors import LmzooError

_TOLD_SECONDS = 0.2


def in_processes(
    function: Callable[[Any, Callable[[int], None]], Any],
    items: Iterable[Any],
    processes: int,
    advance: Callable[[int], object],
) -> Iterator[Any]:
    """What ``function(item, advance)`` gives for every item, in the order in which they are done.

    The items are begun in their order, each by whichever process is free. All processes are at their end
    when this generator is, whatever ended it, and also where this process is killed.

    Args:
        function: to be pickled; the processes are new ones, and import what it needs.
        items: likewise.
        processes: at most so many.
        advance: hears what every function told its own.

    Raises:
        LmzooError: the function's own, or one of the processes was ended from outside.
        OSError: the function's own.
        RuntimeError: any other exception of the function, with its traceback.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(items)
    running: dict[Connection, Any] = {}
    try:
        for _ in range(min(processes, len(waiting))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(function, theirs), daemon=True)
            # Ctrl-C reaches all of them, and this one answers it; the others keep the mask they start with
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            running[ours] = process
            ours.send(waiting.popleft())
        while running:
            for end in wait(list(running)):
                assert isinstance(end, Connection)
                kind, value = _received(end, running[end])
                if kind == "advance":
                    advance(value)
                    continue
                if kind != "done":
                    raise value
                if waiting:
                    end.send(waiting.popleft())
                else:
                    end.close()
                    running.pop(end).join()
                yield value
    finally:
        for process in running.values():
            process.kill()
        for process in running.values():
            process.join()


def _received(end: Connection, process: Any) -> tuple[str, Any]:
    try:
        return end.recv()
    except (EOFError, OSError):
        process.join()
    code = process.exitcode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
    memory = "; if memory ran out, give fewer data.processes" if code == -signal.SIGKILL else ""
    raise LmzooError(
        f"one of the processes that prepare the corpus was ended by {how}{memory}; what is finished is kept: "
        "run again to go on"
    )


def _serve(function: Callable[[Any, Callable[[int], None]], Any], end: Connection) -> None:
    """What such a process does: one item after the other, until there are no more."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = _Told(end)
    while True:
        try:
            item = end.recv()
        except EOFError:
            return
        try:
            value = function(item, told.add)
            told.flush()
            end.send(("done", value))
        except (LmzooError, OSError) as error:
            end.send(("failed", error))
        except Exception:
            end.send(("failed", RuntimeError(f"in a process of its own:\n{traceback.format_exc()}")))


class _Told:
    """Sums up what a function tells of its progress, and sends it on a few times a second."""

    def __init__(self, end: Connection) -> None:
        self._end = end
        self._amount = 0
        self._when = time.monotonic()

    def add(self, amount: int) -> None:
        self._amount += amount
        if time.monotonic() - self._when > _TOLD_SECONDS:
            self.flush()

    def flush(self) -> None:
        self._end.send(("advance", self._amount))
        self._amount, self._when = 0, time.monotonic()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
