"""The console script: every command under one name, and `lmzoo.load` from Python, both without waiting."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inference_models import language_model
from lmzoo import main
from lmzoo.inference import model as model_module


def script(*argv: str, **how) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lmzoo.main", *argv], capture_output=True, text=True, **how)


def test_the_script_lists_every_command_without_torch():
    code = (
        "import sys; from lmzoo.main import main; main(['--help']);"
        "print([name for name in ('torch', 'lightning', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    for name, about in main.COMMANDS.items():
        assert any(line.split() == [name, *about.split()] for line in lines)
    assert script().stdout == script("--help").stdout


@pytest.mark.parametrize("name", ["embed", "score", "fill_mask", "generate", "attention"])
def test_every_command_has_help_with_examples_without_torch(name):
    code = (
        f"import sys; from lmzoo.{name} import main; main(['--help']);"
        "print([name for name in ('torch', 'lightning', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "Examples" in done.stdout
    assert f"lmzoo {name.replace('_', '-')} run=" in done.stdout
    assert "run " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110
    assert script(name.replace("_", "-"), "--help").stdout + "[]\n" == done.stdout


def test_the_script_hands_arguments_on(tokenizer, monkeypatch, capsys):
    made = {"gpt": language_model("gpt", "clm", tokenizer), "bert": language_model("bert", "mlm", tokenizer)}
    monkeypatch.setattr(model_module, "load", lambda path, **how: made[path])
    monkeypatch.setattr(sys, "argv", ["lmzoo"])
    main.main(["score", "run=gpt", "text=The cat"])
    assert capsys.readouterr().out.split("\t")[1] == "The cat\n"
    main.main(["fill-mask", "run=bert", "text=[MASK]", "top_k=1"])
    assert "%" in capsys.readouterr().out


def test_the_script_knows_no_other_command():
    for given, line in (("fil-mask", "did you mean fill-mask?"), ("zzz", "choose one of: train, prepare,")):
        done = script(given)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {given} is not a command; {line}")
        assert len(done.stderr.splitlines()) == 1


def test_the_script_trains_and_prepares_as_the_modules_do(tmp_path):
    for name in ("train", "prepare"):
        direct = subprocess.run(
            [sys.executable, "-m", f"lmzoo.{name}", "model=gbt"], capture_output=True, text=True, cwd=tmp_path
        )
        through = script(name, "model=gbt", cwd=tmp_path)
        assert (through.returncode, through.stdout, through.stderr) == (1, direct.stdout, direct.stderr)
        assert "gbt" in through.stderr


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m lmzoo.main --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_importing_lmzoo_offers_load_without_torch():
    code = "import sys, lmzoo; print(callable(lmzoo.load), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
