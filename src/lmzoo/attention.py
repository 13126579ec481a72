"""`python -m lmzoo.attention`: one page that shows what a model does inside with a text."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lmzoo import cli
from lmzoo.arguments import parse
from lmzoo.errors import LmzooError


@dataclass
class Attention:
    """Every layer and head on a text, as one HTML page that needs no network.

    For an LSTM, the mixture of layers and the gates instead. With text2= or run2=, two texts or two models
    stand side by side."""

    examples: ClassVar[str] = """\
        lmzoo attention run=outputs/DATE/TIME text='The cat sat on the mat.' to=page.html
        lmzoo attention run=outputs/A run2=outputs/B text='The cat sat.' to=page.html"""

    run: str
    """A run folder or a Hugging Face folder."""
    to: str
    """The .html file to write."""
    text: str | None = None
    """The text."""
    file: str | None = None
    """A file with the text, instead of text=."""
    text2: str | None = None
    """A second text, beside the first."""
    run2: str | None = None
    """A second model, beside the first; on text2= if that is given too."""
    truncate: bool = False
    """Show the beginning of a text that is longer than the model's table of positions."""


def main(argv: list[str] | None = None) -> None:
    """Write the page that the command line asks for.

    Raises:
        SystemExit: status 1 after a refusal, 130 after an interruption.
    """
    with cli.one_line():
        wanted = parse(list(sys.argv[1:] if argv is None else argv), "attention", Attention)
        if wanted is not None:
            print(written(wanted), flush=True)


def written(wanted: Attention) -> str:
    """Write the page; gives a line that says where."""
    from lmzoo.inference.sources import one_text

    path = Path(wanted.to).expanduser()
    if path.suffix != ".html":
        raise LmzooError(f"to={wanted.to}: the name must end in .html")
    text = one_text(wanted.text, wanted.file)
    from lmzoo.analysis.attention_page import write_page

    views = [_view(wanted.run, text, wanted.truncate)]
    if wanted.text2 is not None or wanted.run2 is not None:
        second = text if wanted.text2 is None else wanted.text2
        views.append(_view(wanted.run2 or wanted.run, second, wanted.truncate))
    write_page(path, views)
    return f"{path}: open it in a browser"


def _view(run: str, text: str, truncate: bool) -> dict[str, Any]:
    from lmzoo.inference.model import load  # torch, after the arguments have been accepted

    model = load(run)
    shown = model.attention(text, truncate=truncate)
    title = textwrap.shorten(text, 60, placeholder=" …")
    return shown.view(title, f"{model.name} · {model.objective} · {run}")


if __name__ == "__main__":
    main()
