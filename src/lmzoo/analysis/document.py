"""A page of headings, paragraphs, tables and figures, as HTML that stands alone and as Markdown.

All text that comes in is text: both renderers escape it, so that a run named `<script>` is shown as such.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

_SIGNS = re.compile(r"([\\`*_\[\]|#~])")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""For the browser: nothing is run, and nothing is fetched from anywhere."""


@dataclass(frozen=True)
class Heading:
    """``level`` 2 is a chapter, 3 a section in it."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; ``strong`` for what must not be overlooked."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells; columns named in ``left`` are words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[str] = ()
    head: str = ""
    """What must be known before it is read; stands over it."""


@dataclass(frozen=True)
class Figure:
    """A picture that lies beside the page, ``name``.svg and ``name``.png."""

    name: str
    caption: str


Block = Heading | Text | Bullets | Table | Figure


@dataclass
class Document:
    """A page."""

    title: str
    blocks: list[Block] = field(default_factory=list)


# ---------------------------------------------------------------------------------- HTML


def to_html(document: Document, pictures: Path) -> str:
    """One file that needs no other: the SVG pictures in the folder ``pictures`` are inside it."""
    chapters = [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<a href="#{_anchor(text)}">{html.escape(text)}</a>' for text in chapters)
    body = "\n".join(_html(block, pictures) for block in document.blocks)
    style = resources.files("lmzoo.analysis").joinpath("report.css").read_text(encoding="utf-8")
    title = html.escape(document.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{title}</h1><nav>{links}</nav></header>
<main>
{body}
</main>
</body>
</html>
"""


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _html(block: Block, pictures: Path) -> str:
    match block:
        case Heading(text, level):
            anchor = f' id="{_anchor(text)}"' if level == 2 else ""
            return f"<h{level}{anchor}>{html.escape(text)}</h{level}>"
        case Text(text, strong):
            return f'<p class="strong">{html.escape(text)}</p>' if strong else f"<p>{html.escape(text)}</p>"
        case Bullets(texts):
            return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"
        case Figure(name, caption):
            raw = (pictures / f"{name}.svg").read_bytes()
            data = base64.b64encode(raw).decode("ascii")
            words = html.escape(caption)
            image = f'<img src="data:image/svg+xml;base64,{data}" alt="{words}">'
            return f"<figure>{image}<figcaption>{words}</figcaption></figure>"
        case Table():
            return _html_table(block)


def _html_table(table: Table) -> str:
    kinds = ["word" if name in table.left else "number" for name in table.columns]
    head = "".join(
        f'<th scope="col" class="{kind}">{html.escape(name)}</th>'
        for kind, name in zip(kinds, table.columns, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = []
        for place, (kind, text) in enumerate(zip(kinds, row, strict=True)):
            tag = 'th scope="row"' if place == 0 else "td"
            cells.append(f'<{tag} class="{kind}">{html.escape(text)}</{tag[:2]}>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"<caption>{html.escape(table.head)}</caption>" if table.head else ""
    body = "\n".join(rows)
    inside = f"{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table>{inside}</table></div>'


# ---------------------------------------------------------------------------------- Markdown


def to_markdown(document: Document) -> str:
    """The same for a repository's pages; the pictures lie beside it."""
    return "\n\n".join([f"# {_plain(document.title)}", *map(_markdown, document.blocks)]) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, strong):
            return f"**{_plain(text)}**" if strong else _plain(text)
        case Bullets(texts):
            return "\n".join(f"- {_plain(text)}" for text in texts)
        case Figure(name, caption):
            return f"![{_plain(caption)}]({name}.png)\n\n{_plain(caption)}"
        case Table():
            lines = [list(map(_plain, row)) for row in (block.columns, *block.rows)]
            rule = ["---" if name in block.left else "---:" for name in block.columns]
            told = [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]
            return "\n".join([*([_plain(block.head), ""] if block.head else []), *told])


def _plain(text: str) -> str:
    """Text as Markdown shows it as it is."""
    joined = _SIGNS.sub(r"\\\1", " ".join(text.split()))
    return joined.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
