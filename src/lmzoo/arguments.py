"""KEY=VALUE arguments of the commands that Hydra does not compose, read into a dataclass.

A command is described by one dataclass: its docstring says what the command does, its fields are the keys,
with types, defaults and a docstring each, and its class variable ``examples`` is what to type. A field
without a default must be given. ``field(metadata={"choices": (…)})`` names all that a key may be.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lmzoo.errors import LmzooError, one_of

WIDTH = 100
T = TypeVar("T")


def parse(argv: list[str], command: str, kind: type[T]) -> T | None:
    """Fill ``kind`` from a command line.

    Text is taken as it stands. Anything else is read as YAML: ``true``, ``3``, ``1e-3``, ``null`` where the
    type allows it, ``[a, b]`` for a list; a list of one may be written without brackets.

    Args:
        argv: the arguments after the command's name.
        command: the name after ``python -m lmzoo.``.
        kind: the dataclass that describes the command.

    Returns:
        the filled dataclass, or None after help was asked for and printed.

    Raises:
        LmzooError: an unknown flag or key, a key given twice or not at all, a value of another type or
            not among the choices.
    """
    if {"-h", "--help"} & set(argv):
        print(help_text(command, kind))
        return None
    entries: dict[str, Field[Any]] = {key_of(entry): entry for entry in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        if not equals or key.startswith("-"):
            what = "is not known" if argument.startswith("-") else "is no KEY=VALUE"
            raise LmzooError(f"{argument} {what}: {command} takes KEY=VALUE only; --help lists them")
        if key not in entries:
            near = get_close_matches(key, entries, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"{command} has: {', '.join(entries)}"
            raise LmzooError(f"{key}: there is no such key; {hint}")
        if key in given:
            raise LmzooError(f"{key} is given twice; leave one out")
        given[key] = read_value(key, value, hints[entries[key].name])
        choices = entries[key].metadata.get("choices")
        if choices and given[key] is not None:
            one_of(key, given[key], choices)
    missing = [key for key, entry in entries.items() if key not in given and _is_required(entry)]
    if missing:
        raise LmzooError(f"{command} needs {' and '.join(f'{key}=' for key in missing)}; --help says more")
    return kind(**{entries[key].name: value for key, value in given.items()})


def key_of(entry: Field[Any]) -> str:
    """What is typed for a field: its name, or the ``key`` of its metadata, as `task.root` for `task_root`."""
    return entry.metadata.get("key", entry.name)


def read_value(key: str, text: str, hint: Any) -> Any:
    """The value of ``key`` in the type ``hint``: str, int, float, bool, a list of these, or None beside them.

    Raises:
        LmzooError: the text is of another type.
    """
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = [kind for kind in allowed if kind is not type(None)]
    if type(None) in allowed and str not in kinds and text in ("null", "None"):  # else it is a text
        return None
    for kind in kinds:
        try:
            return _as_list(text, get_args(kind)[0]) if get_origin(kind) is list else _as_kind(text, kind)
        except ValueError:
            continue
    raise LmzooError(f"{key}={text} is of the wrong type: give {' or '.join(_in_words(k) for k in kinds)}")


def _as_list(text: str, kind: type) -> list[Any]:
    if not (text.startswith("[") and text.endswith("]")):
        return [_as_kind(text, kind)]
    read = _yaml(text)
    if not isinstance(read, list):
        raise ValueError(text)
    return [_checked(value, kind) for value in read]


def _as_kind(text: str, kind: type) -> Any:
    if kind is str:
        return text
    return _checked(_yaml(text), kind)


def _checked(value: Any, kind: type) -> Any:
    """``value`` as YAML gave it, if it is of this type or is written in another form of it."""
    if kind is str and not isinstance(value, list | dict) and value is not None:
        return str(value)
    if kind is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        return float(value)  # YAML 1.1 reads 1e-3 as text
    if type(value) is not kind:
        raise ValueError(value)
    return value


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(text) from error


def _in_words(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list as in [A, B], each {_in_words(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _is_required(entry: Field[Any]) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


# ---------------------------------------------------------------------------------- help


def help_text(command: str, kind: type) -> str:
    """The help of `python -m lmzoo.COMMAND`."""
    examples = inspect.cleandoc(getattr(kind, "examples", ""))
    parts = [f"usage: python -m lmzoo.{command} KEY=VALUE ...", inspect.cleandoc(kind.__doc__ or "")]
    if examples:
        parts.append(f"Examples\n{textwrap.indent(examples, '  ')}")
    docs = field_docs(kind)
    lines = [_key_line(entry, docs.get(entry.name, "")) for entry in fields(kind)]
    parts.append("Keys\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _key_line(entry: Field[Any], text: str) -> str:
    if _is_required(entry):
        default = ", must be given"
    else:
        value = entry.default if entry.default_factory is MISSING else entry.default_factory()
        default = " = " + (
            "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        )
    kind = str(entry.type).removesuffix(" | None")
    choices = entry.metadata.get("choices")
    kind = "|".join(map(str, choices)) if choices else kind
    return help_entry(f"  {key_of(entry)}", f"{kind}{default}. {text}".strip(), indent=20)


def help_entry(left: str, right: str, indent: int) -> str:
    """``left``, and ``right`` wrapped in a column that starts at ``indent``."""
    wrapped = textwrap.wrap(right, WIDTH - indent) or [""]
    first = f"{left:<{indent - 1}} {wrapped[0]}".rstrip()
    return "\n".join([first, *(" " * indent + line for line in wrapped[1:])])


def field_docs(cls: type) -> dict[str, str]:
    """The docstring below each field, of the class and of those it is made from; backticks left out."""
    found: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[statement.target.id] = " ".join(str(below.value.value).split()).replace("`", "")
    return found
