"""The embedded corpus: enough English, the same each time, and free of what is not prose."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib

import pytest

from lmzoo.text import stdlib
from lmzoo.text.readers import Document
from lmzoo.text.stdlib import stdlib_documents, stdlib_fingerprint


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(stdlib_documents())


def test_size(documents: list[Document]) -> None:
    words = sum(len(document.text.split()) for document in documents)
    assert 270_000 < words < 330_000
    assert 450 < len(documents) < 800


def test_one_document_a_topic_or_module(documents: list[Document]) -> None:
    sources = [document.source for document in documents]
    assert len(set(sources)) == len(sources)
    assert {"topic typesmapping", "module argparse", "module email.message"} <= set(sources)
    assert not any(re.search(r"\b(test_\w+|site-packages|tests)\b", source) for source in sources)


def test_another_process_reads_the_same_and_imports_nothing_that_acts(documents: list[Document]) -> None:
    code = (
        "import sys, zlib; from lmzoo.text.stdlib import stdlib_documents;"
        "print(zlib.crc32(repr(tuple(stdlib_documents())).encode()));"
        "print({'antigravity', 'this', 'turtle', 'tkinter', 'idlelib', 'test'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(zlib.crc32(repr(tuple(documents)).encode())), "set()"]
    assert out.stderr == ""


def test_clean(documents: list[Document]) -> None:
    lines = [line for document in documents for line in document.text.split("\n")]
    assert all(line.strip() == line != "" for line in lines)
    assert not any(">>> " in line[:4] or "::=" in line or "``" in line[:2] for line in lines)
    assert not any(re.fullmatch(r"[-=*~^]{3,}", line) for line in lines)
    letters = sum(character.isalpha() or character == " " for line in lines for character in line)
    assert letters / sum(map(len, lines)) > 0.93


def test_long_paragraphs_stand_once(documents: list[Document]) -> None:
    lines = [line for document in documents for line in document.text.split("\n")]
    long = [line for line in lines if len(line.split()) >= 12]
    assert len(long) > 5000
    assert len(set(long)) == len(long)


def test_fingerprint_names_this_python() -> None:
    assert stdlib_fingerprint().startswith("CPython 3.")
    assert sys.version in stdlib_fingerprint()


def test_paragraphs() -> None:
    text = """\
A heading
*********

The first paragraph was *wrapped* at a width of seventy columns, as the
reference is, and has a ``literal``, a :func:`role`, a non-
breaking hyphen and a footnote [1].  It ends here.

   production ::= "if" condition ":"

Usage of ``f(*args, **kwargs)`` is free, and 2*x*3 stays:

   >>> f(1)
   2

* The first item of a list is long enough that it had to be wrapped
  onto a second line.
* The second item is short.

+------+------+
| a    | b    |
+------+------+

name_of_function(x)
Return the thing.
"""
    assert list(stdlib._paragraphs(text)) == [
        "The first paragraph was wrapped at a width of seventy columns, as the reference is, "
        "and has a literal, a role, a non-breaking hyphen and a footnote. It ends here.",
        "Usage of f(*args, **kwargs) is free, and 2*x*3 stays:",
        "* The first item of a list is long enough that it had to be wrapped onto a second line.",
        "* The second item is short.",
        "Return the thing.",
    ]


def test_docstrings_in_source_order(tmp_path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""Of the module."""\nif True:\n    class A:\n        """Of A."""\n'
        '        def f(self):\n            r"""Of \\d f."""\n            "not this"\n'
        '    async def g():\n        """Of g."""\nx = "\\d"\n"""Not this either."""\n'
    )
    assert stdlib._docstrings(path) == ["Of the module.", "Of A.", r"Of \d f.", "Of g."]
