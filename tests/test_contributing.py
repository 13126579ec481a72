"""CONTRIBUTING.md: its worked examples are applied to a copy of the project, and its commands run there."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmzoo.config import compose
from lmzoo.sweeps.cells import asked_for

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^(?:`(?P<path>[\w./]+)`, (?P<how>new|changed)|```(?P<kind>\w*)\n(?P<body>.*?)^```$)", re.M | re.S
)
PAGES = ["CONTRIBUTING.md", "docs/elmo.md", "docs/gpt.md", "docs/bert.md"]
COPIED = ["src", "conf", "experiments", "tests", "docs", "README.md", "pyproject.toml"]


def edits() -> list[tuple[str, str, str, str]]:
    """(path, new or changed, kind, body) of every block that belongs to a file."""
    found, path, how = [], "", ""
    for match in BLOCK.finditer(TEXT):
        if match["path"]:
            path, how = match["path"], match["how"]
        elif match["kind"] == "sh":
            path = ""
        elif path and match["kind"] in ("python", "yaml", "diff"):
            found.append((path, how, match["kind"], match["body"]))
            path = path if match["kind"] == "diff" else ""
    return found


def commands() -> list[str]:
    blocks = [match["body"] for match in BLOCK.finditer(TEXT) if match["kind"] == "sh"]
    return [line for body in blocks for line in body.splitlines()]


def apply(folder: Path, path: str, how: str, kind: str, body: str) -> None:
    """Write a new file, or replace in a file the lines of a diff, which must stand there exactly once."""
    file = folder / path
    if how == "new":
        assert not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(body, encoding="utf-8")
        return
    assert kind == "diff"
    lines = [(line[:1] or " ", line[1:] + "\n") for line in body.splitlines()]
    old = "".join(text for sign, text in lines if sign != "+")
    new = "".join(text for sign, text in lines if sign != "-")
    before = file.read_text(encoding="utf-8")
    assert f"\n{before}".count(f"\n{old}") == 1, f"{path} has not exactly once:\n{old}"
    file.write_text(f"\n{before}".replace(f"\n{old}", f"\n{new}")[1:], encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with every block of the page applied."""
    folder = tmp_path_factory.mktemp("contributed")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    for edit in edits():
        apply(folder, *edit)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": str(folder / "src"),
        "LMZOO_CACHE": str(folder / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def arguments_of(command: str) -> list[str]:
    first, *rest = shlex.split(command)
    if first == "pytest":
        # in this process, without the workers that the project's own options ask for
        return ["-m", "pytest", "-p", "no:cacheprovider", "-q", "-n0", *rest]
    assert first == "python"
    return [*rest, "hardware=cpu", "model.hidden_size=32"]  # as quick as can be


def test_the_page_has_an_objective_an_encoder_and_a_corpus():
    paths = [path for path, *_ in edits()]
    assert {"src/lmzoo/objectives/skip.py", "src/lmzoo/nn/means.py", "mine/data/manual.yaml"} <= set(paths)
    assert len(commands()) == 5


def run_those(project, chosen) -> None:
    for command in commands():
        if not chosen(arguments_of(command)):
            continue
        done = run(project, *arguments_of(command))
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_tests_take_up_what_was_added(project):
    run_those(project, lambda arguments: "pytest" in arguments)


def test_its_commands_run(project):
    run_those(project, lambda arguments: "pytest" not in arguments)
    runs = sorted(project.glob("outputs/*/*/metrics.json"))
    assert len(runs) == 3, "each training command leaves a finished run"


def test_what_was_added_is_refused_and_helped_with_like_the_rest(project):
    done = run(project, "-m", "lmzoo.train", "objective=skip", "objective.distance=0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: objective.distance=0 is out of range: give a number in [1, 8)\n"
    done = run(project, "-m", "lmzoo.train", "model=means", "objective=bilm")
    assert done.stderr.startswith("error: objective=bilm needs the context apart, and model=means gives")
    done = run(project, "-m", "lmzoo.train", "--help")
    assert "a token further on than the next one" in done.stdout
    assert "How many tokens ahead the target lies." in done.stdout


def test_the_added_files_are_clean(project):
    new = [path for path, how, kind, _ in edits() if how == "new" and kind == "python"]
    done = run(project, "-m", "ruff", "check", *new)
    assert done.returncode == 0, done.stdout
    done = run(project, "-m", "ruff", "format", "--check", *new)
    assert done.returncode == 0, done.stdout


def test_the_profiling_example_runs(project):
    (code,) = [match["body"] for match in BLOCK.finditer(TEXT) if "torch.profiler" in (match["body"] or "")]
    done = run(project, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "Self CPU time total" in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert links
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES[1:])
def test_training_commands_of_the_pages_compose(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^python -m lmzoo\.train(.*)$", text, re.M)
    assert lines
    for line in lines:
        overrides = [word for word in shlex.split(line) if word != "-m"]
        if asked_for(overrides) is not None:  # a table, whose cells test_experiments.py composes
            continue
        choices = [
            [f"{key}={value}" for value in values.split(",")]
            for key, _, values in (override.partition("=") for override in overrides)
        ]
        for job in itertools.product(*choices):
            compose(list(job))
