"""Benchmarks run, and their figures are what they say they are; what the figures are is not tested."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks import all as every
from benchmarks import blimp, data, inference, measure
from benchmarks.measure import ROOT

TABLES = {
    "data": [
        "training a tokenizer of 2,048 pieces",
        "preparation",
        "what preparation is made of, each part alone",
        "batches of 32 rows of 128 tokens",
        "from a command to its first step",
        "a new process that only imports",
    ],
    "inference": [
        "open bert_2018 tiny",
        "embed, bert_2018 tiny: 100 sentences",
        "embed, peak of resident memory",
        "score: log-likelihood, gpt2 tiny: 20 sentences",
        "score: pseudo-log-likelihood, bert_2018 tiny: 2 sentences",
        "generate, gpt tiny: 16 tokens",
    ],
}


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def figures(value: object) -> list[float]:
    """Every number in a report's tables."""
    if isinstance(value, dict):
        return [found for each in value.values() for found in figures(each)]
    if isinstance(value, list):
        return [found for each in value for found in figures(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "shards", "inference", "step", "blimp", "scale"])
def test_the_quick_run_writes_figures(name, tmp_path, shared_data):
    written = tmp_path / "figures.json"
    done = run(name, "--quick", "--json", str(written))
    assert done.returncode == 0, done.stderr
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["benchmark"] == name
    assert {"processor", "threads", "torch"} <= set(found["machine"])
    assert found["tables"]
    if name in TABLES:
        assert list(found["tables"]) == TABLES[name]
    for title, rows in found["tables"].items():
        assert rows, title
        assert f"**{title}**" in done.stdout
        columns = {tuple(row) for row in rows}
        assert len(columns) == 1, f"{title}: rows of several kinds"
        for number in figures(rows):
            assert math.isfinite(number), title
            assert number > 0, title


@pytest.mark.slow
def test_a_start_is_told_stage_by_stage_and_its_corpus_is_warm(tmp_path):
    text = tmp_path / "text.txt"
    sentences = [f"The cat sat on mat {number} and slept. It was warm there." for number in range(60)]
    text.write_text("\n\n".join(sentences), encoding="utf-8")
    overrides = [
        *("data=text", f"data.train={text}", "tokenizer.vocab_size=300", "seq_len=16", "batch_size=4"),
        *(f"cache_dir={tmp_path / 'cache'}", "logger=none", "budget.steps=1", "hardware=cpu"),
    ]
    for turn in ("cold", "warm"):
        asked = time.time()
        done = run("start", str(asked), *overrides, f"hydra.run.dir={tmp_path / turn}")
        took = time.time() - asked
        assert done.returncode == 0, done.stderr
        reached = json.loads(done.stdout.splitlines()[-1])
        assert list(reached) == [
            "Python",
            "config and run folder",
            "import torch",
            "import Lightning",
            "import the rest of lmzoo",
            "corpus found",
            "model",
            "loggers",
            "trainer",
            "first step",
            "checkpoint, validation, export",
        ]
        moments = [0.0, *reached.values()]
        assert moments == sorted(moments)
        assert moments[-1] <= took
        assert (tmp_path / turn / "metrics.json").is_file()


def test_a_corpus_that_is_not_there_is_told_and_no_failure(tmp_path, capsys):
    for benchmark in (data, inference):
        benchmark.main(["--quick", "--text", str(tmp_path / "none.txt.gz"), "--json", str(tmp_path / "json")])
        assert capsys.readouterr().out.startswith("skipped: ")
    assert not (tmp_path / "json").exists()


def test_the_longer_text_has_the_same_words_in_other_documents(tmp_path):
    text, longer = tmp_path / "text.txt", tmp_path / "longer.txt.gz"
    text.write_text("\n".join("abcdefghi") + "\n\n" + "\n".join("klmnopqrst") + "\n", encoding="utf-8")
    data.write_longer(text, longer, 3)
    documents = [document.text for document in data.documents_of(longer)]
    assert len(documents) == len(set(documents)) == 6
    assert sorted(documents[0].split()) == sorted(documents[2].split()) == list("abcdefghi")
    with gzip.open(longer, "rt", encoding="utf-8") as file:
        assert len(file.read().split()) == 57


def test_quotes_are_made_straight_as_those_of_blimp(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("“It’s ‘here’,” — she said.\n\nИ тут “да”.\n", encoding="utf-8")
    copy = blimp.with_straight_quotes(text, tmp_path / "copy.txt.gz")
    straight = '"It\'s \'here\'," — she said.\n\nИ тут "да".\n'
    assert gzip.decompress(copy.read_bytes()).decode("utf-8") == straight
    again = blimp.with_straight_quotes(copy, tmp_path / "again.txt.gz")
    assert gzip.decompress(again.read_bytes()).decode("utf-8") == straight


def test_the_peak_is_of_the_process_itself():
    held = bytearray(400_000_000)
    held[::4096] = b"x" * len(held[::4096])  # pages are had only when they are written
    code = "from benchmarks.measure import peak_bytes; print(peak_bytes())"
    alone = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert measure.peak_bytes() > len(held)
    assert 20e6 < int(alone.stdout) < measure.peak_bytes() - 100e6


def test_results_that_differ_end_the_benchmark():
    ours = torch.tensor([-100.0, -0.5])
    inference.agree("score", ours, ours * 1.0001)
    inference.agree_exactly("generate", [1, 2], [1, 2])
    with pytest.raises(SystemExit, match=r"score: lmzoo's results and transformers' are 0\.5 apart"):
        inference.agree("score", ours, ours - torch.tensor([0.0, 0.5]))
    with pytest.raises(SystemExit, match="nan apart"):
        inference.agree("score", ours, ours * float("nan"))
    with pytest.raises(SystemExit, match="the 3 tokens differ after 1"):
        inference.agree_exactly("generate", [1, 2, 3], [1, 4, 3])


def test_a_report_is_a_table_and_a_file(tmp_path, capsys):
    report = measure.Report("one", {"rounds": 3})
    report.begin("speed", ("what", "seconds"))
    report.row(what="ours", seconds=measure.Sample((1.0, 4.0, 2.0)))
    report.row(what="theirs", seconds=None)
    report.note("no compiler: left out")
    report.write(tmp_path / "new" / "one.json")
    shown = capsys.readouterr().out
    assert "| what | seconds |\n|---|---|\n| ours | 2 (1–4) |\n| theirs | – |" in shown
    written = json.loads((tmp_path / "new" / "one.json").read_text(encoding="utf-8"))
    assert written["tables"] == {
        "speed": [
            {"what": "ours", "seconds": {"median": 2.0, "values": [1.0, 4.0, 2.0]}},
            {"what": "theirs", "seconds": None},
        ]
    }
    assert (written["rounds"], written["notes"]) == (3, ["no compiler: left out"])


def test_contestants_take_turns():
    order: list[str] = []

    def contestant(name: str):
        def measured() -> float:
            order.append(name)
            return float(len(order))

        return measured

    times = measure.in_turns({name: contestant(name) for name in "ab"}, 3)
    assert order == list("ababab")
    assert times["b"].values == (2.0, 4.0, 6.0)
    assert times["b"].per(12).median == 3.0


def test_all_goes_on_after_a_failure(tmp_path, monkeypatch, capfd):
    # benchmarks of our own in their place
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "step.py").write_text("raise SystemExit('step: losses differ')\n", encoding="utf-8")
    (folder / "data.py").write_text("print('skipped: no text')\n", encoding="utf-8")
    (folder / "scale.py").write_text(
        "import json, sys, pathlib\n"
        "assert sys.argv[3:] == ['--quick', '--rounds', '2'], sys.argv\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps({'tables': {'sizes': [], 'lengths': []}}))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(every, "ROOT", tmp_path)
    results = tmp_path / "results"
    results.mkdir()
    (results / "step.json").write_text("of another time", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        every.main(["scale", "step", "data", "--quick", "--rounds", "2", "--json-folder", str(results)])
    assert stop.value.code == 1
    shown = capfd.readouterr()
    assert "step: losses differ" in shown.err
    overview = shown.out[shown.out.index("## overview") :].splitlines()[4:]
    assert [line.split(" | ")[:2] for line in overview] == [
        ["| step", "**failed** (status 1)"],
        ["| data", "skipped"],
        ["| scale", "done"],
    ]
    assert "sizes; lengths" in overview[2]
    assert not (results / "step.json").exists()


def test_all_knows_its_benchmarks(capsys):
    with pytest.raises(SystemExit) as stop:
        every.main(["stap"])
    assert stop.value.code == 2
    assert "there is no benchmark stap; choose of step, trainer" in capsys.readouterr().err
