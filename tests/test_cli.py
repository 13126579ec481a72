"""The command line: what runs, where, and what is left behind after a refusal, a failure, a sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmzoo import cli, distributed, prepare
from lmzoo.config import compose, config_folder, load_config, save_config, to_dict
from lmzoo.errors import LmzooError

pytestmark = pytest.mark.usefixtures("_empty_working_folder")


@pytest.fixture
def _empty_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Recorder:
    """A job that notes its calls, writes one file, and fails on the seeds it is told to fail on."""

    def __init__(self, **failures: BaseException) -> None:
        self.calls: list[tuple] = []
        self.failures = {int(name.removeprefix("seed")): error for name, error in failures.items()}

    def __call__(self, config, folder, resuming):
        self.calls.append((config, folder, resuming))
        if config.seed in self.failures:
            raise self.failures[config.seed]
        (folder / "metrics.json").write_text("{}")


def run(job, *argv: str) -> int:
    """Run a command in this process; returns its exit status."""
    try:
        cli.run(job, list(argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def left_behind() -> list[str]:
    return sorted(str(path.relative_to(Path.cwd())) for path in Path.cwd().rglob("*"))


def error_lines(capsys) -> list[str]:
    """What was said on standard error, how far a sweep is left out."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if not line.startswith("sweep  ")]


# ---------------------------------------------------------------------------------- one run


def test_a_run_gets_a_folder_with_its_resolved_config(capsys):
    job = Recorder()
    assert run(job, "model=gpt", "seed=7", "hydra.run.dir=here/run") == 0
    ((config, folder, resuming),) = job.calls
    assert (config.model.name, config.seed, config.context, resuming) == ("gpt", 7, "past", False)
    assert folder == Path.cwd() / "here" / "run"
    assert load_config(folder / "config.yaml") == config == compose(["model=gpt", "seed=7"])
    assert left_behind() == ["here", "here/run", "here/run/config.yaml", "here/run/metrics.json"]
    assert error_lines(capsys) == []


def test_the_folder_is_named_by_date_and_time():
    job = Recorder()
    assert run(job) == 0
    date, clock = job.calls[0][1].relative_to(Path.cwd() / "outputs").parts
    time.strptime(f"{date} {clock}", "%Y-%m-%d %H-%M-%S")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["objective=mlm_nsp", "data.view=stream"], "choose data.view=pairs"),
        (["modl=gpt"], "did you mean model?"),
        (["model=gtp"], "choose one of: bert, bert_2018, elmo, elmo_2018, gpt, gpt2, gpt_2018"),
        (["seed=x"], "give a whole number"),
        (["seed=1,2"], "add -m"),
        (["budget.steps=1", "budget.epochs=1"], "one budget at a time"),
        (["oops"], "write KEY=VALUE"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--config-dir", "nowhere"], "not found"),
        (["-m", "model=elmo", "seed=1,2", "model.num_heads=4"], "model=gpt|bert"),
        (["-m", "seed=1,2", "optimizer.lr=0.1,-1"], "optimizer.lr=-1.0 is out of range"),
        (["-m", "model=gpt,bart"], "model=bart is not known"),
        (["resume=nowhere"], "there is no such folder"),
        (["resume=a,b"], "give one folder, without -m"),
        (["-m", "resume=a"], "give one folder, without -m"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(argv, part, capsys):
    job = Recorder()
    assert run(job, *argv) == 1
    (line,) = error_lines(capsys)
    assert line.startswith("error: ")
    assert part in line
    assert job.calls == []
    assert left_behind() == []


def test_a_job_that_is_refused_before_it_wrote_anything_leaves_nothing(capsys):
    assert run(Recorder(seed2=LmzooError("the file is empty")), "seed=2") == 1
    assert error_lines(capsys) == ["error: the file is empty"]
    assert left_behind() == []


@pytest.mark.parametrize(("rows", "left"), [("", []), ("1\n", ["run", "run/config.yaml", "run/history.csv"])])
def test_a_job_keeps_its_folder_if_it_logged_a_step(rows, left, capsys):
    def job(config, folder, resuming):
        (folder / "history.csv").write_text("step\n" + rows)
        raise LmzooError("the loss is not finite")

    assert run(job, "hydra.run.dir=run") == 1
    assert error_lines(capsys) == ["error: the loss is not finite"]
    assert left_behind() == left


def test_folders_that_were_there_stay():
    Path("mine/run").mkdir(parents=True)
    Path("mine/notes.txt").write_text("mine")
    assert run(Recorder(), "hydra.run.dir=mine/run/deep/er", "modl=1") == 1
    assert run(Recorder(), "hydra.run.dir=mine/run/deep/er", "batch_size=0") == 1
    assert left_behind() == ["mine", "mine/notes.txt", "mine/run"]


def test_another_run_is_not_touched(capsys):
    assert run(Recorder(), "hydra.run.dir=run") == 0
    before = {path: path.read_bytes() for path in Path("run").iterdir()}
    job = Recorder()
    assert run(job, "hydra.run.dir=run", "seed=2") == 1
    (line,) = error_lines(capsys)
    assert "holds a run already" in line
    assert job.calls == []
    assert {path: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(Recorder(seed1=ZeroDivisionError("bug")), [])


@pytest.mark.parametrize("how", ["raised", "as Lightning does"])
def test_an_interruption_says_how_to_go_on(how, capsys):
    def job(config, folder, resuming):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if how == "raised":
                raise
            sys.exit(1)

    assert run(job, "hydra.run.dir=run") == 130
    assert error_lines(capsys) == [
        f"error: interrupted; go on with: python -m lmzoo.train resume={Path.cwd() / 'run'}"
    ]


def test_an_interruption_before_anything_was_written_leaves_nothing(capsys):
    assert run(Recorder(seed1=KeyboardInterrupt())) == 130
    assert error_lines(capsys) == ["error: interrupted"]
    assert left_behind() == []


def test_an_experiment_of_ones_own(capsys):
    folder = Path("mine/experiment")
    folder.mkdir(parents=True)
    (folder / "fast.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.5\n")
    (folder / "wrong.yaml").write_text("# @package _global_\noptimizer:\n  lrr: 0.5\n")
    job = Recorder()
    assert run(job, "--config-dir", "mine", "experiment=fast") == 0
    assert (
        run(Recorder(), "experiment=fast", "hydra.run.dir=other", "--config-dir", "mine") == 0
    )  # in any order
    assert job.calls[0][0].optimizer.lr == 0.5
    assert run(job, "--config-dir", "mine", "experiment=wrong") == 1
    (line,) = error_lines(capsys)
    assert line.startswith("error: in experiment/wrong.yaml: optimizer.lrr: ")


# ---------------------------------------------------------------------------------- a sweep


def test_a_sweep_runs_on_past_a_failing_job(capsys):
    job = Recorder(seed2=LmzooError("two is bad"))
    assert run(job, "-m", "model=elmo,gpt", "seed=1,2,3", "hydra.sweep.dir=sweep") == 1
    assert [(config.model.name, config.seed) for config, _, _ in job.calls] == [
        *(("elmo", 1), ("elmo", 2), ("elmo", 3)),
        *(("gpt", 1), ("gpt", 2), ("gpt", 3)),
    ]
    assert error_lines(capsys) == [
        "error: job 1 (model=elmo seed=2): two is bad",
        "error: job 4 (model=gpt seed=2): two is bad",
        "error: 2 of 6 jobs failed: job 1 (model=elmo seed=2); job 4 (model=gpt seed=2); "
        f"run them again by sweep.resume={Path.cwd() / 'sweep'}",
    ]
    jobs = sorted(path.name for path in Path("sweep").iterdir())
    assert jobs == ["0", "2", "3", "5", "jobs", "multirun.yaml", "sweep.json"]


def test_a_bug_in_a_job_ends_only_that_job_and_shows_its_traceback(capsys):
    job = Recorder(seed1=ZeroDivisionError("bug"))
    assert run(job, "-m", "seed=1,2") == 1
    assert [config.seed for config, _, _ in job.calls] == [1, 2]
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "error: 1 of 2 jobs failed: job 0 (seed=1)" in error


def test_a_sweep_is_a_group():
    job = Recorder()
    assert run(job, "-m", "seed=1,2") == 0
    groups = {config.logger.group for config, _, _ in job.calls}
    assert groups == {" ".join(job.calls[0][1].parent.parts[-3:])}
    assert groups.pop().startswith("multirun 20")
    assert run(job, "-m", "seed=3", "logger.group=mine", "hydra.sweep.dir=other") == 0
    assert job.calls[-1][0].logger.group == "mine"
    assert run(job, "seed=4") == 0
    assert job.calls[-1][0].logger.group is None


def test_a_sweep_in_which_nothing_ran_leaves_nothing():
    assert run(Recorder(), "-m", "batch_size=0,-1") == 1
    assert left_behind() == []


def test_another_sweep_is_not_touched():
    assert run(Recorder(), "-m", "seed=1", "hydra.sweep.dir=sweep") == 0
    before = {path: path.read_bytes() for path in Path("sweep").rglob("*") if path.is_file()}
    job = Recorder()
    assert run(job, "-m", "seed=2", "hydra.sweep.dir=sweep") == 1
    assert job.calls == []
    assert {path: path.read_bytes() for path in Path("sweep").rglob("*") if path.is_file()} == before


# ---------------------------------------------------------------------------------- going on


@pytest.fixture
def stopped() -> Path:
    """The folder of a run that stopped at a checkpoint."""
    folder = Path.cwd() / "stopped"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    save_config(
        compose(["model=elmo", "seed=9", "hardware.micro_batch=4", "logger.group=mine"]),
        folder / "config.yaml",
    )
    return folder


def test_a_run_goes_on_in_its_own_folder(stopped):
    job = Recorder()
    before = left_behind()
    assert run(job, "resume=stopped") == 0
    assert job.calls == [(load_config(stopped / "config.yaml"), stopped, True)]
    assert left_behind() == sorted([*before, "stopped/metrics.json"])


def test_hardware_and_logger_may_differ(stopped):
    job = Recorder()
    assert run(job, "hardware.precision=fp32", "resume=stopped", "logger=csv") == 0
    config = job.calls[0][0]
    assert (config.hardware.precision, config.hardware.micro_batch) == ("fp32", 4)
    assert (config.logger.name, config.logger.group) == ("csv", "mine")
    assert run(job, "resume=stopped", "hardware=ddp", "hardware.precision=bf16") == 0
    hardware = job.calls[1][0].hardware
    assert (hardware.strategy, hardware.devices, hardware.precision) == ("ddp", 2, "bf16")
    assert hardware.micro_batch is None


@pytest.mark.parametrize(
    "other", ["seed=2", "model=gpt", "+foo=1", "hydra.run.dir=x", "~logger", "budget.steps=9"]
)
def test_nothing_else_may_differ(stopped, other, capsys):
    job = Recorder()
    before = left_behind()
    assert run(job, "resume=stopped", other) == 1
    (line,) = error_lines(capsys)
    assert f"{other} cannot be given with resume=" in line
    assert job.calls == []
    assert left_behind() == before


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ("hardware.precison=fp32", "did you mean hardware.precision?"),
        ("logger=wandbb", "choose one of: csv,"),
        ("hardware.devices=3", "give a multiple of 3"),
    ],
)
def test_what_may_differ_is_checked_too(stopped, wrong, part, capsys):
    assert run(Recorder(), "resume=stopped", wrong) == 1
    (line,) = error_lines(capsys)
    assert part in line


@pytest.mark.parametrize(
    ("gone", "part"),
    [
        ("config.yaml", "there is no config.yaml"),
        ("checkpoints/last.ckpt", "the run is done (there is metrics.json), and its checkpoints are gone"),
    ],
)
def test_a_folder_that_cannot_go_on_is_refused(stopped, gone, part, capsys):
    (stopped / gone).unlink()
    (stopped / "metrics.json").touch()
    before = left_behind()
    assert run(Recorder(), "resume=stopped") == 1
    (line,) = error_lines(capsys)
    assert part in line
    assert left_behind() == before


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(stopped, capsys):
    (stopped / "checkpoints" / "last.ckpt").unlink()
    job = Recorder()
    assert run(job, "resume=stopped") == 0
    assert job.calls == [(load_config(stopped / "config.yaml"), stopped, False)]
    assert "begins anew" in capsys.readouterr().err


def test_the_checkpoint_before_the_last_is_enough_to_go_on(stopped):
    (stopped / "checkpoints" / "last.ckpt").rename(stopped / "checkpoints" / "previous.ckpt")
    job = Recorder()
    assert run(job, "resume=stopped") == 0
    assert job.calls[0][2] is True


def test_steps_that_are_not_finite_may_be_left_out_when_a_run_goes_on(stopped):
    job = Recorder()
    assert run(job, "resume=stopped", "skip_nonfinite=2") == 0
    assert job.calls[0][0].skip_nonfinite == 2


def test_a_misspelt_key_in_the_folder_is_refused(stopped, capsys):
    file = stopped / "config.yaml"
    file.write_text(file.read_text().replace("cell_clip", "cell_clp"))
    assert run(Recorder(), "resume=stopped") == 1
    (line,) = error_lines(capsys)
    assert f"{file}: model.cell_clp" in line
    assert "did you mean model.cell_clip" in line


# ---------------------------------------------------------------------------------- ranks


def test_a_rank_takes_its_job_from_the_environment(monkeypatch):
    config = compose(["model=gpt", "hardware=ddp"])
    folder = Path.cwd() / "run"
    folder.mkdir()
    monkeypatch.setenv("MASTER_PORT", "1234")
    with distributed.as_rank_command(folder, to_dict(config), resuming=True):
        os.environ["MASTER_PORT"] = "5678"  # as Lightning does
        handed = json.loads(os.environ[distributed.RANK_JOB])
        assert handed["parent"] == os.getpid()
        # a rank is a child of rank 0, and ends with its parent; this process plays both
        os.environ[distributed.RANK_JOB] = json.dumps(handed | {"parent": os.getppid()})
        job = Recorder()
        assert run(job, "ignored") == 0
    assert job.calls == [(config, folder, True)]
    assert distributed.RANK_JOB not in os.environ
    assert os.environ["MASTER_PORT"] == "1234"
    assert left_behind() == ["run", "run/metrics.json"]


# ---------------------------------------------------------------------------------- help, the commands


def test_help_names_every_group_choice_and_key(capsys):
    for argv in (["--help"], ["model=gpt", "-h"]):
        assert run(Recorder(), *argv) == 0
        text = capsys.readouterr().out
        for group in (path for path in config_folder().iterdir() if path.is_dir()):
            assert f"  {group.name}=" in text
            for choice in group.glob("*.yaml"):
                assert f"\n    {choice.stem} " in text
        for model in ("elmo", "gpt", "bert"):
            for section, values in to_dict(compose([f"model={model}"])).items():
                keys = (
                    [
                        f"{section}.{key}"
                        for key in values
                        if key != ("source" if section == "data" else "name")
                    ]
                    if isinstance(values, dict)
                    else [section]
                )
                assert [key for key in keys if f"\n  {key} " not in text] == []
        assert "schema" not in text
        assert left_behind() == []


def test_help_of_prepare(capsys):
    prepare.main(["--help"])
    text = capsys.readouterr().out
    assert "  data.train " in text
    assert "optimizer" not in text


def test_prepare_refuses_in_one_line(capsys):
    for argv in (["-m"], ["data=txt"], ["tokenizer.vocab_sise=3"]):
        with pytest.raises(SystemExit) as stop:
            prepare.main(argv)
        assert stop.value.code == 1
        assert len(error_lines(capsys)) == 1
    assert left_behind() == []


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *argv], capture_output=True, text=True, timeout=60)


def test_help_is_quick(capsys):
    start = time.perf_counter()
    result = command("lmzoo.train", "--help")
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\n--help: {seconds:.2f} s")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: python -m lmzoo.train")
    assert result.stderr == ""


def test_the_command_refuses_in_one_line():
    result = command("lmzoo.train", "objective=mlm_nsp", "data.view=stream")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: objective=mlm_nsp does not take data.view=stream")
    assert result.stdout == ""
    assert left_behind() == []


def test_ctrl_c_ends_a_command_with_130():
    Path("stub.py").write_text(
        "import time\n"
        "from lmzoo import cli\n"
        "def job(config, folder, resuming):\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "cli.run(job)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "stub.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what it puts in the background with SIGINT ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "error: interrupted\n")
    assert left_behind() == ["stub.py"]
