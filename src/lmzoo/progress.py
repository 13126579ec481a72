"""Progress bars: on a terminal, and quiet everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)
"""Where people are spoken to; standard output is left to results."""


def say(line: str) -> None:
    """One line, as it is: neither folded nor coloured."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def no_bars() -> None:
    """Draw no bar from here on: another process shows the progress."""
    console._force_terminal = False


def make_bar(*columns: str, auto_refresh: bool = True) -> Progress:
    """A bar with the house's look.

    Args:
        columns: extra text columns in rich's format.
        auto_refresh: draw from a thread of its own, ten times a second; else on ``refresh()`` alone.
    """
    texts = [TextColumn(column) for column in columns]
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *texts,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=auto_refresh,
        disable=not console.is_terminal,
        transient=True,
    )


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """Show a bar while the block runs; yields ``advance(amount)``. Nothing where there is no terminal."""
    with make_bar("{task.percentage:>3.0f} %") as bar:
        task = bar.add_task(description, total=total)
        yield lambda amount: bar.update(task, advance=amount)
