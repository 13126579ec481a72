"""The embedded default corpus: the English that comes with every CPython.

One document for each topic of ``pydoc_data.topics`` (the language reference, as ``help()`` shows it)
and one for each module of the standard library (its docstrings, in the order of the source, found by
parsing: nothing is imported but ``pydoc_data.topics``, which is a table of strings). Left out are tests
(their helpers in ``test.support`` stay), what is installed besides, and the tables of ``encodings``.
Some 280 to 300 thousand words, by version.

To make running English of it

- lines that were wrapped at a fixed width become one line a paragraph; list items, fields and
  lines that were cut short on purpose stay lines of their own;
- underlines of headings, tables, doctests and productions of a grammar go; so do lines with more code
  than words, and lines of up to three words that are no sentence (signatures, lists of names);
- the mark-up around a word (``*``, ````, ``:func:``) goes and the word stays;
- a paragraph that has stood in an earlier document is not repeated: the topics quote each other, and a
  paragraph held out must not stand in the training part.
"""

from __future__ import annotations

import ast
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from lmzoo.errors import LmzooError
from lmzoo.text.readers import Document

_LEFT_OUT = {
    *("test", "tests", "idle_test", "site-packages", "dist-packages"),
    *("ensurepip", "pydoc_data", "encodings", "lib-dynload"),
}

_RULE = re.compile(r"\s*([-=~*^\"'#+_.:])\1{2,}\s*")
_TABLE = re.compile(r"\s*(?:[|+].*[|+]\s*|[-=]{2,}(?: +[-=]{2,})+\s*)")
_DOCTEST = re.compile(r"\s*(?:>>> |\.\.\. |\(Pdb\) |In \[\d)")
_LIST_ITEM = re.compile(r"[-*•+o] |\(?\d{1,2}[.)] |\([a-z]\) |:\w|@\w|\S+ --? ")
_LITERAL = re.compile(r"(?::\w+)*:?(`{1,2})(.+?)\1_?")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(\w(?:[^*]*?\w)?)\1(?![\w*])")
_FOOTNOTE = re.compile(r" \[\d+\](?=[\s.,;:)]|$)")
_WORD = re.compile(r"[A-Za-z][A-Za-z’']*")
_SYMBOL = re.compile(r"[=({\[<>|;@#%\\]|(?<=\W)[_.]|/")
_CALL = re.compile(r"[\w.]+\(\)|__\w+__")
_NARROWEST = 58
"""A line that could not have taken the next word within so many columns was wrapped."""
_RAGGED = 45
"""A line longer than this may have been wrapped too, if the next starts small."""
_REPEATED_WORDS = 12
"""Shorter paragraphs may come again: "Return the result." says something new in each place."""


def stdlib_fingerprint() -> str:
    """Which CPython the text comes from: its text differs between versions."""
    return f"{platform.python_implementation()} {sys.version}"


def stdlib_documents() -> Iterator[Document]:
    """The documents, topics first, then modules, each by name; always in this order.

    Raises:
        LmzooError: this Python came without its documentation or its sources.
    """
    seen: set[str] = set()
    for source, raw in _raw_documents():
        kept = [line for text in raw for line in _paragraphs(text) if _is_new(line, seen)]
        if kept:
            yield Document("\n".join(kept), source)


def _is_new(paragraph: str, seen: set[str]) -> bool:
    if paragraph in seen:
        return False
    if len(paragraph.split()) >= _REPEATED_WORDS:
        seen.add(paragraph)
    return True


def _raw_documents() -> Iterator[tuple[str, list[str]]]:
    try:
        from pydoc_data import topics
    except ImportError:
        raise LmzooError("this Python has no pydoc_data, so data=stdlib has no text; use data=text") from None
    for name, text in sorted(topics.topics.items()):
        yield f"topic {name}", [text]
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in folder.rglob("*.py") if not _left_out(path.relative_to(folder)))
    if not files:
        raise LmzooError(f"{folder} has no Python sources, so data=stdlib has no text; use data=text")
    for path in files:
        yield f"module {'.'.join(path.relative_to(folder).with_suffix('').parts)}", _docstrings(path)


def _left_out(path: Path) -> bool:
    return any(part in _LEFT_OUT for part in path.parts) and path.parts[:2] != ("test", "support")


def _docstrings(path: Path) -> list[str]:
    """The docstrings of a module, its classes and their functions, in the order of the source."""
    found: list[str] = []

    def visit(node: ast.Module | ast.stmt) -> None:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                found.append(docstring)
        for child in getattr(node, "body", ()):
            visit(child)

    with warnings.catch_warnings(action="ignore"):  # of escapes in other people's strings
        visit(ast.parse(path.read_bytes()))
    return found


def _paragraphs(text: str) -> Iterator[str]:
    """Running lines out of a hard-wrapped text with mark-up."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line.rstrip() for line in block.split("\n")]
        lines = [line for line in lines if line and not _RULE.fullmatch(line) and not _TABLE.fullmatch(line)]
        for number, line in enumerate(lines):
            if _DOCTEST.match(line):
                lines = lines[:number]
                break
        for line in _joined(lines):
            line = _FOOTNOTE.sub("", _EMPHASIS.sub(r"\2", _LITERAL.sub(r"\2", line)))
            if _is_english(line):
                yield line


def _joined(lines: list[str]) -> Iterator[str]:
    held = ""
    width = 0
    for line in lines:
        words = line.split()
        wrapped = width + 1 + len(words[0]) > _NARROWEST
        runs_on = width > _RAGGED and words[0][0].islower() and held[-1:] not in ".!?:"
        if held and (wrapped or runs_on) and not _LIST_ITEM.match(line.lstrip()):
            hyphened = held.endswith("-") and held[-2:-1].isalpha() and words[0][0].islower()
            held += ("" if hyphened else " ") + " ".join(words)
        else:
            if held:
                yield held
            held = " ".join(words)
        width = len(line)
    if held:
        yield held


def _is_english(line: str) -> bool:
    words = _WORD.findall(line)
    symbols = len(_SYMBOL.findall(_CALL.sub("", line)))
    if "::=" in line or 2 * symbols > len(words):
        return False
    return min(len(words), len(line.split())) > 3 or (len(words) > 1 and line[-1] in ".!?")
