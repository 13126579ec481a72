"""What stands in a task's files, item by item: columns, JSON objects, CoNLL's lines, SQuAD's layout.

Nothing is judged here but the form: every item comes as named values with the place where it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lmzoo.errors import LmzooError
from lmzoo.tasks.config import TaskConfig
from lmzoo.text.packed import open_unpacked
from lmzoo.text.readers import numbered_lines, refuse_half_characters

Values = dict[str, Any]
Lines = Iterator[tuple[int, str]]
CONLLU_FIELDS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
DOCUMENT_MARK = "-DOCSTART-"
"""CoNLL-2003's mark between documents, which stands where a sentence would."""
BROKEN = "broken"
"""The one key of a row with too few or too many columns, where the task leaves these out."""
JOIN = " + "
"""Between the names of files that belong together, as CoLA's two dev files."""
_LINES_A_STEP = 1000


def read_values(
    path: Path, config: TaskConfig, advance: Callable[[int], object] | None = None
) -> Iterator[tuple[str, Values]]:
    """Every item of a file, in order, with where it stands (``file:line``).

    ``tsv`` and ``jsonl`` give the columns that the task names (its texts, its label, its split's); ``conll``
    and ``conllu`` give ``words``, ``tags`` and, where the file has it, ``text``; ``squad`` gives ``id``,
    ``question``, ``context`` and ``answers``, a list of (text, start or None).

    Args:
        path: the file; .gz, .xz and .zst are unpacked, a byte-order mark is passed over.
        config: names format and columns.
        advance: told how many more bytes of the file, as it lies on disk, have been read.

    Raises:
        LmzooError: naming file and line: bytes that are not UTF-8, a damaged file, an unknown column, a row
            with too few or too many columns, what is not JSON or not in SQuAD's layout.
    """
    with open_unpacked(path) as (unpacked, raw):
        lines = numbered_lines(path, unpacked)
        if advance is not None:
            lines = _told(lines, raw.tell, advance)
        yield from _READERS[config.format](path, lines, config)


def _told(lines: Lines, tell: Callable[[], int], advance: Callable[[int], object]) -> Lines:
    told = 0
    for number, line in lines:
        yield number, line
        if number % _LINES_A_STEP == 0:
            advance(tell() - told)
            told = tell()
    advance(tell() - told)


def wanted_columns(config: TaskConfig) -> list[str]:
    """The columns or keys of a row that the task reads."""
    named = [*config.texts, config.label, config.split if config.split != "hash" else None]
    return list(dict.fromkeys(name for name in named if name))


def refuse_unknown_columns(wanted: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises LmzooError where a column that the task names is not there."""
    known = list(known)
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise LmzooError(
                f"{where} has no column {name!r}; {hint}its columns are {', '.join(known)}: name them in the "
                "task's texts, label and split"
            )


def _tsv(path: Path, lines: Lines, config: TaskConfig) -> Iterator[tuple[str, Values]]:
    header: list[str] | None = None
    places: dict[str, int] = {}
    for number, line in lines:
        # as csv.reader reads it with QUOTE_NONE: a quotation mark is a character like any other
        cells = line.split("\t")
        where = f"{path}:{number}"
        if header is None:
            header = cells
            wanted = wanted_columns(config)
            refuse_unknown_columns(wanted, header, where)
            places = {name: header.index(name) for name in wanted}
        elif not line.strip() and len(cells) < len(header):
            continue  # an empty line at the end; a row of one empty column is still a row
        elif len(cells) == len(header):
            yield where, {name: cells[place] for name, place in places.items()}
        elif config.skip_broken_rows:
            yield where, {BROKEN: True}
        else:
            raise LmzooError(
                f"{where} has {_counted(len(cells), 'column')} and the header {len(header)}; mend the line "
                "(a tab in a text?), or set skip_broken_rows: true in the task, which counts them"
            )


def _jsonl(path: Path, lines: Lines, config: TaskConfig) -> Iterator[tuple[str, Values]]:
    wanted = wanted_columns(config)
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _json(line, where)
        if not isinstance(row, dict):
            raise LmzooError(f"{where} is no JSON object; write one object a line")
        refuse_unknown_columns(wanted, row, where)
        values = {name: row[name] for name in wanted}
        refuse_half_characters(json.dumps(values, ensure_ascii=False), where)
        yield where, values


def _conll(path: Path, lines: Lines, config: TaskConfig) -> Iterator[tuple[str, Values]]:
    words: list[str] = []
    tags: list[str] = []
    first, separator = 0, ""
    for number, line in lines:
        if line.strip():
            # CoNLL-2003 parts its columns by single spaces; the tag is the last one everywhere
            separator = separator or ("\t" if "\t" in line else " ")
            cells = line.split("\t") if separator == "\t" else [cell for cell in line.split(" ") if cell]
            if len(cells) < 2 or not cells[-1].strip():
                raise LmzooError(
                    f"{path}:{number} has a word without a tag; write WORD<TAB>TAG, and a blank line between "
                    "sentences"
                )
            first = first if words else number
            words.append(cells[0])
            tags.append(cells[-1].strip())
        elif words:
            yield f"{path}:{first}", {"words": words, "tags": tags}
            words, tags = [], []
    if words:
        yield f"{path}:{first}", {"words": words, "tags": tags}


def _conllu(path: Path, lines: Lines, config: TaskConfig) -> Iterator[tuple[str, Values]]:
    column = CONLLU_FIELDS.index(config.label or "upos")
    held: Values = {}
    first = 0
    for number, line in lines:
        if not line.strip():
            if held:
                yield f"{path}:{first}", held
                held = {}
            continue
        if not held:
            held, first = {"words": [], "tags": []}, number
        if line.startswith("#"):
            name, equals, value = line[1:].partition("=")
            if equals and name.strip() == "text":
                held["text"] = value.strip()
            continue
        cells = line.split("\t")
        if len(cells) != len(CONLLU_FIELDS):
            raise LmzooError(
                f"{path}:{number} has {_counted(len(cells), 'column')}, and CoNLL-U has "
                f"{len(CONLLU_FIELDS)}, parted by tabs; mend the line"
            )
        if "-" not in cells[0] and "." not in cells[0]:  # multi-word tokens and empty nodes are no words
            held["words"].append(cells[1])
            held["tags"].append(cells[column])
    if held:
        yield f"{path}:{first}", held


def _squad(path: Path, lines: Lines, config: TaskConfig) -> Iterator[tuple[str, Values]]:
    whole = _json("\n".join(line for _, line in lines), str(path))
    place = f"{path}: data"
    for a, article in enumerate(_part(whole, "data", list, str(path))):
        for p, paragraph in enumerate(_part(article, "paragraphs", list, f"{place}[{a}]")):
            inside = f"{place}[{a}].paragraphs[{p}]"
            context = _part(paragraph, "context", str, inside)
            for q, question in enumerate(_part(paragraph, "qas", list, inside)):
                where = f"{inside}.qas[{q}]"
                answers = _part(question, "answers", list, where)
                number = str(question.get("id", ""))
                refuse_half_characters(number, f"{where}.id")
                yield (
                    where,
                    {
                        "id": number,
                        "question": _part(question, "question", str, where),
                        "context": context,
                        "answers": [_answer(answer, where) for answer in answers],
                    },
                )


def _answer(answer: Any, where: str) -> tuple[str, int | None]:
    text = _part(answer, "text", str, f"{where}.answers")
    start = answer.get("answer_start")
    return text, start if type(start) is int else None


def _part(holder: Any, key: str, kind: type, where: str) -> Any:
    found = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(found, kind):
        what = {list: "list", str: "text"}[kind]
        raise LmzooError(f"{where} has no {what} {key!r}: it is not in SQuAD's layout")
    if isinstance(found, str):
        refuse_half_characters(found, where)
    return found


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if error.lineno > 1 else ""
        place = f"{error.msg} at column {error.colno}"
        raise LmzooError(f"{where}{line} is not JSON ({place}); mend it") from None
    except (ValueError, RecursionError) as error:
        raise LmzooError(f"{where} is not JSON ({error}); mend it") from None


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


_READERS: dict[str, Callable[[Path, Lines, TaskConfig], Iterator[tuple[str, Values]]]] = {
    "tsv": _tsv,
    "jsonl": _jsonl,
    "conll": _conll,
    "conllu": _conllu,
    "squad": _squad,
}
