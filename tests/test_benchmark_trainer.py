"""The benchmark of the whole command: that it runs, and what it makes of the runs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of the benchmark, which are not installed."""
    monkeypatch.syspath_prepend(ROOT)
    return {
        name: import_module(f"benchmarks.{name}")
        for name in ("measure", "trainer", "trainer_loss", "trainer_theirs")
    }


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.trainer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_quick_run_tells_both_parts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    done = run("--quick", "--json", str(tmp_path / "first.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "first.json").read_text(encoding="utf-8"))
    throughput, runs, best, least = found["tables"].values()
    assert {"command", "bare", "trainer"} <= {row["contestant"] for row in throughput}
    assert all(row["tokens_per_second"]["median"] > 0 for row in throughput)
    assert [row["arm"] for row in runs] == ["theirs", "same", "default"]
    assert all(2 < row["loss"] < 8 and row["steps"] > 0 for row in runs)
    assert best[0] | {"loss": None} == {
        "arm": "theirs", "budget_seconds": 0.6, "share": 1.0, "rate": 2.5e-4, "loss": None,
        "above_theirs": 0.0, "reached": "yes",
    }  # fmt: skip
    assert [row["arm"] for row in least] == ["same", "default"]
    # every run is taken over, so that nothing is trained
    again = run("--quick", "--part", "loss", "--resume-json", str(tmp_path / "first.json"),
                "--json", str(tmp_path / "second.json"))  # fmt: skip
    assert again.returncode == 0, again.stderr[-2000:]
    second = json.loads((tmp_path / "second.json").read_text(encoding="utf-8"))
    assert second["tables"]["every run"] == runs


def test_text_that_is_not_there_skips(parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts["trainer"].main(["--text", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    said = capsys.readouterr().out
    assert said.startswith("skipped: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "points", "found"),
    [
        (4.0, [(100.0, 3.5), (25.0, 4.5)], 50.0),
        (4.5, [(100.0, 3.5), (25.0, 4.5)], None),
        (4.0, [(100.0, 3.5), (25.0, 3.9)], None),
        (4.0, [(100.0, 4.5)], None),
        (4.0, [(100.0, 3.5), (25.0, float("inf"))], None),
        (4.0, [(400.0, 3.0), (100.0, 3.5), (25.0, 4.5)], 50.0),
    ],
)
def test_interpolated(
    parts: Any, target: float, points: list[tuple[float, float]], found: float | None
) -> None:
    assert parts["trainer_loss"].interpolated(target, points) == (found and pytest.approx(found))


def test_pace_is_of_the_median_window(parts: Any) -> None:
    seen = [(100, 1.0), (200, 2.0), (300, 12.0), (340, 12.5)]  # 100, 10 and 80 tokens a second
    assert parts["trainer_theirs"].pace(seen) == 80.0


def test_least_share_is_of_the_medians(parts: Any) -> None:
    loss, measure = parts["trainer_loss"], parts["measure"]

    def reached(share: float, *losses: float) -> Any:
        return loss.Reached(300 * share, share, 1e-3, measure.Sample(losses), False)

    report = measure.Report("trainer")
    found = {
        "theirs": [reached(1.0, 4.9, 5.0, 5.3)],
        "same": [reached(1 / 3, 4.7, 4.8, 6.0), reached(1 / 4, 4.9, 5.1, 5.2)],
        "default": [reached(1 / 10, 5.1, 5.2, 5.3)],
    }
    loss.tell(report, found, None)
    same, default = report.tables["seconds to a loss of 5.000"]
    assert (same["share"], same["seconds"]) == (1 / 3, 100.0)
    assert 1 / 4 < same["interpolated_share"] < 1 / 3
    assert default["share"] is None
    assert default["seconds"] is None


def test_grids_have_one_size_and_one_factor(parts: Any) -> None:
    arguments = ["--rates", "theirs=1e-4", "same=1e-3", "--num-rates", "3", "--shares", "same=1/3,0.5"]
    options = parts["trainer"].read_options(arguments)
    assert options.rates["theirs"] == pytest.approx([1e-4, 2e-4, 4e-4])
    assert options.rates["same"] == pytest.approx([1e-3, 2e-3, 4e-3])
    assert len(options.rates["default"]) == 3
    assert options.shares["same"] == [0.5, 1 / 3]


@pytest.mark.parametrize(
    "arguments",
    [["--only", "ours"], ["--rates", "mine=1"], ["--shares", "theirs=0.5"], ["--set", "seed=1"],
     ["--steps", "25"], ["--objectives", "bilm"], ["--shares", "same=few"]],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    parts: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parts["trainer"].read_options(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
