"""The benchmark for GPUs, as far as a CPU can tell: it runs, keeps its time, and finds out a wrong model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are no part of the package

from benchmarks.contestants import Ours, build_module, check_agreement
from benchmarks.contests import Setting
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.run import Plain
from benchmarks.gpu.steps import attention_flops
from benchmarks.gpu.text import as_one_document
from benchmarks.measure import ROOT

from builders import batch_of


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def text_file(folder: Path) -> Path:
    path = folder / "text.txt"
    sentences = [
        f"The cat of house {number} sat on mat {number * 7 % 90}. It slept. It was warm there in room "
        f"{number * 11 % 60}, and the dog of house {number * 3 % 80} saw it."
        for number in range(400)
    ]
    path.write_text("\n\n".join(sentences), encoding="utf-8")
    return path


@pytest.mark.slow
def test_quick_run_goes_through_every_part(tmp_path):
    written = tmp_path / "figures.json"
    done = run("--device", "cpu", "--quick", "--text", str(text_file(tmp_path)), "--json", str(written))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(written.read_text(encoding="utf-8"))
    checks, *others = found["tables"].values()
    assert {row["outcome"] for row in checks} == {"agree"}
    assert {row["contest"] for row in checks} == {"bert_2018", "gpt2", "bert", "gpt", "elmo"}
    titles = [title.split()[0] for title in found["tables"]]
    for part in ("gpt2", "whole", "elmo", "head:", "bert_2018", "bert", "gpt"):
        assert part in titles
    for rows in others:
        assert rows
        assert len({tuple(row) for row in rows}) == 1
        measured = [cell for row in rows for cell in row.values() if isinstance(cell, dict)]
        assert measured
        assert all(math.isfinite(value) and value > 0 for cell in measured for value in cell["values"])
    whole = found["tables"]["whole command, tiny"]
    assert [row["model"] for row in whole] == ["gpt", "bert"]
    assert any("this run is on cpu" in note for note in found["notes"])


def test_what_has_no_room_is_told_and_left_out(tmp_path, capsys):
    written = tmp_path / "figures.json"
    gpu.main(
        ["--device", "cpu", "--quick", "--budget-seconds", "0", "--text", str(text_file(tmp_path)),
         "--json", str(written), "--parts", "checks,gpt2-512,head,small"]
    )  # fmt: skip
    notes = json.loads(written.read_text(encoding="utf-8"))["notes"]
    assert len(notes) == 4
    assert all("is left out: 0 s are left" in note for note in notes)
    assert all(note in capsys.readouterr().out for note in notes[:1])


def test_parts_and_texts_that_are_not_there_are_refused(tmp_path, capsys):
    for arguments, told in (
        (["--parts", "gpt3-512"], "gpt3-512 is not known"),
        (["--text", str(tmp_path / "none.txt")], "there is no such file"),
    ):
        with pytest.raises(SystemExit):
            gpu.main(["--device", "cpu", "--quick", *arguments])
        assert told in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    gpu.main([])
    assert capsys.readouterr().out.startswith("skipped: no GPU")


def plain_beside_ours() -> tuple[Ours, Plain]:
    setting = Setting("gpt2", "tiny", 60, 16, 3, dropout=0.0)
    generator = torch.Generator().manual_seed(5)
    rows = [[row[:9], row[9:]] for row in torch.randint(5, 60, (3, 16), generator=generator).tolist()]
    batches = [as_one_document(batch_of(rows, 16))]
    plain = Plain(setting, batches, build_module(setting), precision="fp32", compiled=False, device="cpu")
    return Ours(setting, batches, precision="fp32"), plain


def test_the_plain_gpt_is_ours():
    ours, plain = plain_beside_ours()
    assert check_agreement(ours, plain, 1) < 1e-5
    assert ours.num_parameters == plain.num_parameters


def test_a_plain_gpt_that_is_not_ours_is_found_out():
    ours, plain = plain_beside_ours()
    with torch.no_grad():
        plain.module.get_parameter("layers.1.qkv.weight").mul_(1.01)
    with pytest.raises(Exception, match="do not compute the same"):
        check_agreement(ours, plain, 1)


def test_packed_rows_become_rows_of_one_document():
    packed = batch_of([[[5, 6, 7], [8, 9]], [[5, 6]]], 6)
    whole = as_one_document(packed)
    assert (whole.documents == 0).all()
    assert whole.positions.tolist() == [list(range(6))] * 2
    assert torch.equal(whole.tokens, packed.tokens)


def test_attention_is_counted_over_whole_rows():
    """Three times two products of two operations: layers · width · length² · rows."""
    setting = Setting("gpt2", "tiny", 60, 32, 4, dropout=0.0)
    assert attention_flops(setting) == 3 * 2 * 2 * 2 * 128 * 32**2 * 4
    assert attention_flops(Setting("elmo", "tiny", 60, 32, 4)) == 0
