"""KEY=VALUE arguments of the commands that Hydra does not compose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from lmzoo.arguments import parse
from lmzoo.errors import LmzooError


@dataclass
class Brew:
    """Make tea."""

    examples: ClassVar[str] = "python -m lmzoo.brew leaf=green"

    leaf: str
    """Which `leaf`."""
    minutes: float = 3.0
    """How long."""
    cups: int = 1
    sugar: bool = False
    kettle: str = field(default="steel", metadata={"choices": ("steel", "glass")})
    layers: list[int] | None = None
    guests: list[str] = field(default_factory=list)
    seed: int | None = 1
    pot_lid: str | None = field(default=None, metadata={"key": "pot.lid"})
    """Whether `it` fits."""


def brew(*argv: str) -> Brew:
    made = parse(["leaf=green", *argv], "brew", Brew)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("minutes=2", 2.0),
        ("minutes=1e-3", 1e-3),
        ("cups=4", 4),
        ("sugar=true", True),
        ("kettle=glass", "glass"),
        ("layers=[1, -1]", [1, -1]),
        ("layers=2", [2]),
        ("layers=null", None),
        ("guests=Ann: a friend", ["Ann: a friend"]),
        ("guests=[Ann, 5]", ["Ann", "5"]),
        ("seed=null", None),
    ],
)
def test_values_take_the_type_of_their_key(argument, expected):
    made = getattr(brew(argument), argument.partition("=")[0])
    assert made == expected
    assert type(made) is type(expected)


def test_a_field_may_have_a_key_with_a_dot():
    assert brew("pot.lid=loose").pot_lid == "loose"
    assert brew().pot_lid is None
    for argv, message in (
        (["pot_lid=loose"], "pot_lid: there is no such key; did you mean pot.lid?"),
        (["pot.lid=a", "pot.lid=b"], "pot.lid is given twice"),
    ):
        with pytest.raises(LmzooError, match=message):
            brew(*argv)


@pytest.mark.parametrize("text", ["a=b", "[MASK]", "null", "5", ": {", ""])
def test_text_is_taken_as_it_stands(text):
    assert parse([f"leaf={text}"], "brew", Brew) == Brew(leaf=text)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["minute=2"], "minute: there is no such key; did you mean minutes?"),
        (["xyz=2"], "xyz: there is no such key; brew has: leaf, minutes"),
        (["--force"], "--force is not known: brew takes KEY=VALUE only"),
        (["--cups=2"], "--cups=2 is not known"),
        (["green"], "green is no KEY=VALUE"),
        (["cups=2", "cups=2"], "cups is given twice"),
        (["cups=2.5"], "cups=2.5 is of the wrong type: give a whole number"),
        (["cups=true"], "cups=true is of the wrong type"),
        (["cups=null"], "cups=null is of the wrong type"),
        (["sugar=1"], "sugar=1 is of the wrong type: give true or false"),
        (["minutes=long"], "minutes=long is of the wrong type: give a number"),
        (["layers=[1, a]"], "layers=[1, a] is of the wrong type: give a list as in [A, B]"),
        (["layers=[1"], "layers=[1 is of the wrong type"),
        (["guests=[[1]]"], "guests=[[1]] is of the wrong type"),
        (["kettle=tin"], "kettle=tin is not known; choose one of: steel, glass"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(argv, message):
    with pytest.raises(LmzooError) as refusal:
        brew(*argv)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_key_without_a_default_must_be_given():
    with pytest.raises(LmzooError, match="brew needs leaf="):
        parse(["cups=2"], "brew", Brew)


def test_help_says_what_each_key_is(capsys):
    assert parse(["cups=x", "--help"], "brew", Brew) is None
    told = capsys.readouterr().out
    assert told.startswith("usage: python -m lmzoo.brew KEY=VALUE")
    for piece in (
        "Make tea.",
        "  python -m lmzoo.brew leaf=green",
        "leaf              str, must be given. Which leaf.",
        "minutes           float = 3.0. How long.",
        "kettle            steel|glass = steel.",
        "layers            list[int] = null.",
        "sugar             bool = false.",
        "pot.lid           str = null. Whether it fits.",
    ):
        assert piece in told
