"""Versions of all that lmzoo needs: the set that was tested, and the least that pyproject.toml claims.

python tests/versions.py tested > constraints.txt
python tests/versions.py minimum > minimum.txt
python tests/versions.py minimum --only-needed > minimum.txt
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
OWN = "lmzoo"
CONSTRAINTS = ROOT / "constraints.txt"
HEADER = """\
# What lmzoo was last tested with, exactly, for installs that can be repeated:
#   pip install -c constraints.txt -e '.[dev]'
# No platform, no registry, no build is named here. CONTRIBUTING.md says how it is renewed.
"""


def direct(*extras: str) -> list[Requirement]:
    """What pyproject.toml names: what lmzoo needs to run, and these extras with the extras that they name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [Requirement(line) for line in project["dependencies"]]
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for line in project["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if requirement.name == OWN:
                waiting += requirement.extras
            else:
                named.append(requirement)
    return named


def all_direct() -> list[Requirement]:
    """What pyproject.toml names anywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return direct(*project["optional-dependencies"])


def least(requirement: Requirement) -> str:
    """The least version that a requirement allows.

    Raises:
        ValueError: it has none, or several.
    """
    (found,) = (entry.version for entry in requirement.specifier if entry.operator in (">=", "=="))
    return found


def minimum(*extras: str) -> list[str]:
    """Constraints that pin what is named to the least versions."""
    named = {canonicalize_name(entry.name): least(entry) for entry in direct(*extras)}
    return [f"{name}=={version}" for name, version in sorted(named.items())]


def tested() -> list[str]:
    """Constraints that pin what is installed here, of all that lmzoo needs, to its version."""
    found: dict[str, str] = {}
    waiting = [(canonicalize_name(entry.name), frozenset(entry.extras)) for entry in all_direct()]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            print(f"not installed here, and so left out: {name}", file=sys.stderr)
            continue
        # without what a build adds to it, as +cpu
        found[name] = Version(installed.version).public
        for requirement in map(Requirement, installed.requires or []):
            asked = [{"extra": extra} for extra in ("", *extras)]
            if requirement.marker is None or any(map(requirement.marker.evaluate, asked)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def pinned() -> dict[str, str]:
    """The versions in constraints.txt, by name."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tested"]:
            print(HEADER + "\n".join(tested()))
        case ["minimum", *more]:
            print("\n".join(minimum(*(() if more == ["--only-needed"] else ("hub", "tasks", "tensorboard")))))
        case _:
            sys.exit(__doc__)
