"""constraints.txt: exact versions of all that pyproject.toml names, within its bounds, and for no one platform."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from versions import CONSTRAINTS, HEADER, all_direct, direct, least, minimum, pinned
from versions import tested as installed_versions

DIRECT = {canonicalize_name(entry.name): entry for entry in all_direct()}


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_what_is_named_is_pinned_within_its_bounds(name: str) -> None:
    assert name in pinned(), "run: python tests/versions.py tested > constraints.txt"
    assert DIRECT[name].specifier.contains(pinned()[name])


def test_every_line_is_one_exact_version() -> None:
    text = CONSTRAINTS.read_text(encoding="utf-8")
    assert text.startswith(HEADER)
    lines = text.removeprefix(HEADER).splitlines()
    assert lines == sorted(set(lines), key=lambda line: line.partition("==")[0])
    for line in lines:
        # no address, no hash, no marker, no build of one platform
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.]*", line), line
        name, version = line.split("==")
        assert canonicalize_name(name) == name
        assert Version(version).local is None
    assert not re.search(r"https?://|--|index|file:", text.removeprefix(HEADER))


def test_lmzoo_itself_and_what_only_a_gpu_wants_are_not_in_it() -> None:
    assert not [name for name in pinned() if name == "lmzoo" or name.startswith(("nvidia", "triton", "cuda"))]
    assert not {"torchvision", "torchaudio", "pip"} & set(pinned())


def test_what_is_pinned_is_enough_for_itself() -> None:
    """What is installed here and needed by what is pinned is pinned too."""
    assert {line.split("==")[0] for line in installed_versions()} <= set(pinned())


def test_every_requirement_has_a_least_version() -> None:
    for requirement in all_direct():
        assert requirement.specifier.contains(least(requirement)), requirement
    assert f"torch=={least(DIRECT['torch'])}" in minimum()
    assert {line.split("==")[0] for line in minimum("dev")} == {
        canonicalize_name(entry.name) for entry in direct("dev")
    }


@pytest.mark.parametrize(("line", "found"), [("a>=1.5,<2", "1.5"), ("a>=2", "2"), ("a==3.1", "3.1")])
def test_the_least_version(line: str, found: str) -> None:
    assert least(Requirement(line)) == found


@pytest.mark.parametrize("line", ["a", "a<2", "a>1"])
def test_a_requirement_without_a_least_version_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="not enough values"):
        least(Requirement(line))
