"""Sweeps: what is skipped, what goes on past a failure, what is run again, and how far it all is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from lmzoo import cli, folders
from lmzoo.config import load_config
from lmzoo.errors import LmzooError
from lmzoo.folders import Announced
from lmzoo.sweeps import record
from lmzoo.sweeps.command import Asked, put_down, sweep
from lmzoo.sweeps.jobs import Jobs
from lmzoo.sweeps.progress import at_once_of, duration, line, seconds_left
from lmzoo.sweeps.record import DONE, FAILED, RUNNING, SKIPPED, STOPPED, Job, State, read_record, read_states

pytestmark = pytest.mark.usefixtures("_empty_working_folder")


@pytest.fixture
def _empty_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Recorder:
    """A job that notes its calls and leaves what a run leaves; on some seeds it fails, or stops on the way."""

    def __init__(self, fails: tuple[int, ...] = (), stops: tuple[int, ...] = ()) -> None:
        self.calls: list[tuple] = []
        self.fails, self.stops = fails, stops

    def __call__(self, config, folder, resuming):
        self.calls.append((config, folder, resuming))
        if config.seed in self.fails:
            raise LmzooError(f"{config.seed} is bad")
        if config.seed in self.stops:
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / "last.ckpt").touch()
            raise KeyboardInterrupt
        metrics = {"valid": {"loss": float(config.seed)}, "ledger": {}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return metrics

    @property
    def seen(self) -> list[tuple]:
        return [(c.model.name, c.objective.name, c.seed, f.name, r) for c, f, r in self.calls]


def run(job, *argv: str) -> int:
    try:
        cli.run(job, list(argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def said(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------- what can be


def test_impossible_pairs_are_skipped_and_listed_at_the_end(capsys):
    job = Recorder()
    assert run(job, "-m", "objective=mlm,mlm_nsp", "data.view=stream,pairs", "hydra.sweep.dir=sweep") == 0
    assert [(c.objective.name, c.data.view, f.name) for c, f, _ in job.calls] == [
        ("mlm", "stream", "0"),
        ("mlm", "pairs", "1"),
        ("mlm_nsp", "pairs", "2"),
    ]
    lines = said(capsys)
    assert lines[0] == "sweep  1 of 4 combinations cannot be, and are skipped"
    assert lines[-2].startswith(
        "skipped: objective=mlm_nsp data.view=stream: objective=mlm_nsp does not take data.view=stream"
    )
    assert lines[-1].startswith("sweep  3 of 3 done in ")
    assert [entry.name for entry in read_record(Path("sweep").absolute()).skipped] == [
        "objective=mlm_nsp data.view=stream"
    ]


def test_a_key_of_another_model_skips_the_models_that_have_it_not(capsys):
    job = Recorder()
    assert run(job, "-m", "model=gpt,elmo,bert", "model.num_heads=4") == 0
    assert [model for model, *_ in job.seen] == ["gpt", "bert"]
    assert "it belongs to model=gpt|bert" in said(capsys)[-2]


def test_a_wrong_value_is_refused_before_anything_runs(capsys):
    job = Recorder()
    assert run(job, "-m", "seed=1,2", "optimizer.lr=1e-3,fast") == 1
    (only,) = said(capsys)
    assert only.startswith("error: optimizer.lr=fast is of the wrong type: give a number (")
    assert (job.calls, list(Path.cwd().iterdir())) == ([], [])


def test_experiments_of_one_run_are_swept_over(capsys):
    job = Recorder()
    assert run(job, "-m", "experiment=bert_nsp,bert_ltr", "seed=1,2") == 0
    assert [seen[:3] for seen in job.seen] == [
        ("bert", "mlm_nsp", 1),
        ("bert", "mlm_nsp", 2),
        ("bert", "clm", 1),
        ("bert", "clm", 2),
    ]


def test_ones_own_choices_are_found_where_the_jobs_are_checked():
    folder = Path("mine/experiment")
    folder.mkdir(parents=True)
    (folder / "fast.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.5\n")
    job = Recorder()
    assert run(job, "-m", "--config-dir", "mine", "experiment=fast", "seed=1,2") == 0
    assert [config.optimizer.lr for config, _, _ in job.calls] == [0.5, 0.5]


# ---------------------------------------------------------------------------------- what became of the jobs


def test_the_state_of_every_job_is_kept():
    assert run(Recorder(fails=(2,)), "-m", "model=elmo,gpt", "seed=1,2", "hydra.sweep.dir=sweep") == 1
    states = read_states(Path("sweep"))
    assert {n: s.state for n, s in states.items()} == {0: DONE, 1: FAILED, 2: DONE, 3: FAILED}
    assert (states[3].name, states[3].error) == ("job 3 (model=gpt seed=2)", "2 is bad")
    assert (states[2].kind, states[2].folder, states[2].error) == ("gpt tiny", "2", None)
    assert all(s.ended is not None and s.ended >= s.started for s in states.values())
    jobs = read_record(Path("sweep")).jobs
    assert [(job.number, job.overrides) for job in jobs][:2] == [
        (0, ["model=elmo", "seed=1"]),
        (1, ["model=elmo", "seed=2"]),
    ]


def test_each_job_begins_with_a_line_on_the_whole_sweep(capsys):
    assert run(Recorder(fails=(2,)), "-m", "seed=1,2,3", "hydra.sweep.dir=sweep") == 1
    lines = [entry for entry in said(capsys) if entry.startswith("sweep  ")]
    assert lines[0] == "sweep  0 of 3 done · 1 running · 2 left · job 0 (seed=1)"
    assert lines[1].startswith("sweep  1 of 3 done · 1 running · 1 left · about ")
    assert lines[2].startswith("sweep  1 of 3 done · 1 running · 1 failed · about ")
    assert lines[2].endswith(" · job 2 (seed=3)")
    assert lines[3].startswith("sweep  2 of 3 done in ")


# ---------------------------------------------------------------------------------- going on


def test_going_on_runs_what_is_missing_or_unfinished_and_nothing_else(capsys):
    first = Recorder(fails=(2,), stops=(3,))
    assert (
        run(first, "-m", "model=gpt,bert", "seed=1,2,3", "hydra.sweep.dir=sweep", "logger.group=mine") == 130
    )
    # job 0 is done, 1 failed, 2 was interrupted at a checkpoint, 3 to 5 never began
    assert {n: s.state for n, s in read_states(Path("sweep")).items()} == {0: DONE, 1: FAILED, 2: STOPPED}
    sweep = Path("sweep").absolute()
    assert f"sweep goes on by: python -m lmzoo.train -m sweep.resume={sweep}" in "\n".join(said(capsys))
    done = contents(Path("sweep/0"))

    second = Recorder()
    assert run(second, "-m", f"sweep.resume={sweep}", "hardware.precision=fp32") == 0
    assert second.seen == [
        ("gpt", "clm", 2, "1", False),
        ("gpt", "clm", 3, "2", True),
        ("bert", "mlm", 1, "3", False),
        ("bert", "mlm", 2, "4", False),
        ("bert", "mlm", 3, "5", False),
    ]
    assert {c.logger.group for c, _, _ in second.calls} == {"mine"}
    assert {c.hardware.precision for c, _, _ in second.calls} == {"fp32"}
    assert contents(Path("sweep/0")) == done
    assert {s.state for s in read_states(Path("sweep")).values()} == {DONE}
    capsys.readouterr()

    third = Recorder()
    before = contents(Path("sweep"))
    assert run(third, f"sweep.resume={sweep}") == 0  # without -m too
    assert third.calls == []
    assert said(capsys) == [f"sweep.resume={sweep}: nothing is missing and nothing unfinished"]
    assert contents(Path("sweep")) == before


def test_a_job_is_named_by_what_not_all_jobs_have():
    assert run(Recorder(), "-m", "seed=1,2", "budget.steps=3", "hydra.sweep.dir=sweep") == 0
    assert [state.name for _, state in sorted(read_states(Path("sweep")).items())] == [
        "job 0 (seed=1)",
        "job 1 (seed=2)",
    ]
    shutil.rmtree("sweep/1")
    assert run(Recorder(), "-m", "sweep.resume=sweep") == 0
    assert read_states(Path("sweep"))[1].name == "job 1 (seed=2)"


def test_the_line_says_nothing_of_what_failed_before(capsys):
    assert run(Recorder(fails=(1, 2)), "-m", "seed=1,2,3", "hydra.sweep.dir=sweep") == 1
    capsys.readouterr()
    assert run(Recorder(), "-m", "sweep.resume=sweep") == 0
    lines = [entry for entry in said(capsys) if entry.startswith("sweep  ")]
    assert lines[0].startswith("sweep  0 of 2 done · 1 running · 1 left")
    assert lines[1].startswith("sweep  1 of 2 done · 1 running · about ")


def test_a_run_that_was_deleted_is_missing():
    assert run(Recorder(), "-m", "seed=1,2,3", "hydra.sweep.dir=sweep") == 0
    shutil.rmtree("sweep/1")
    job = Recorder()
    assert run(job, "-m", "sweep.resume=sweep") == 0
    assert job.seen == [("bert", "mlm", 2, "1", False)]


def test_going_on_from_another_working_folder(tmp_path, monkeypatch):
    Path("text.txt").write_text("A text.\n\nAnother.\n")
    first = Recorder(stops=(2,))
    assert run(first, "-m", "seed=1,2,3", "data=text", "data.train=text.txt", "hydra.sweep.dir=sweep") == 130
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    job = Recorder()
    assert run(job, "-m", "sweep.resume=../sweep") == 0
    assert [(seed, resuming) for _, _, seed, _, resuming in job.seen] == [(2, True), (3, False)]
    assert {config.data.train for config, _, _ in job.calls} == {str(tmp_path / "text.txt")}
    assert not any(elsewhere.iterdir())


def test_a_folder_that_began_without_a_checkpoint_begins_anew():
    def killed(config, folder, resuming):
        (folder / "history.csv").write_text("step\n1\n")
        raise KeyboardInterrupt

    assert run(killed, "-m", "seed=1,2", "hydra.sweep.dir=sweep") == 130
    config = load_config(Path("sweep/0/config.yaml"))
    job = Recorder()
    assert run(job, "-m", "sweep.resume=sweep") == 0
    assert [(seed, name, resuming) for _, _, seed, name, resuming in job.seen] == [
        (1, "0", False),
        (2, "1", False),
    ]
    assert job.calls[0][0] == config


def test_names_of_folders_of_ones_own_stay():
    named = ["hydra.sweep.dir=sweep", "hydra.sweep.subdir='${model.name}-${seed}'"]
    assert run(Recorder(stops=(2,)), "-m", "model=gpt,bert", "seed=1,2", *named) == 130
    job = Recorder()
    assert run(job, "-m", "sweep.resume=sweep") == 0
    assert [name for *_, name, _ in job.seen] == ["gpt-2", "bert-1", "bert-2"]


def test_another_launcher_takes_the_rest():
    """The settings of the old one go with it."""
    sweep = Path("sweep").absolute()
    jobs = [Job(0, ["seed=1"]), Job(1, ["seed=2"])]
    typed = ["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep"]
    record.Record(typed, jobs=jobs).write(sweep)
    job = Recorder()
    assert run(job, "-m", f"sweep.resume={sweep}", "hydra/launcher=basic") == 0
    assert [seed for _, _, seed, _, _ in job.seen] == [1, 2]


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["sweep.resume=nowhere"], "nowhere: there is no such folder"),
        (["sweep.resume="], "sweep.resume= is empty"),
        (["sweep.resume=empty"], "there is no sweep.json in it; give the folder of a sweep"),
        (["sweep.resume=broken"], "sweep.json cannot be read"),
        (["sweep.resume=sweep", "seed=3"], "seed=3 cannot be given with sweep.resume="),
        (["sweep.resume=sweep", "hydra.sweep.dir=x"], "only hydra.launcher may differ"),
        (["sweep.resum=sweep"], "sweep.resum: there is no such key; sweep has: resume, metric, rates"),
        (
            ["sweep.rates=[1]", "experiment=bert_nsp"],
            "sweep.rates= goes with an experiment that searches rates",
        ),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(argv, part, capsys):
    assert run(Recorder(stops=(2,)), "-m", "seed=1,2", "hydra.sweep.dir=sweep") == 130
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/sweep.json").write_text("{")
    before = contents(Path.cwd())
    capsys.readouterr()
    job = Recorder()
    assert run(job, "-m", *argv) == 1
    (only,) = said(capsys)
    assert part in only
    assert job.calls == []
    assert contents(Path.cwd()) == before


def test_what_is_said_of_a_sweep_wants_a_sweep(capsys):
    assert run(Recorder(), "sweep.metric=valid/loss") == 1
    assert said(capsys) == ["error: sweep.metric= is said of a sweep: add -m"]


def test_a_sweep_that_is_running_is_left_alone(capsys):
    assert run(Recorder(stops=(1,)), "-m", "seed=1,2", "hydra.sweep.dir=sweep") == 130
    capsys.readouterr()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        State(0, "job 0 (seed=1)", process=sleeper.pid, folder="0").write(Path("sweep"))
        assert run(Recorder(), "-m", "sweep.resume=sweep") == 1
        assert f"job 0 (seed=1) is running (process {sleeper.pid} on " in said(capsys)[0]
    finally:
        sleeper.kill()
        sleeper.wait()
    job = Recorder()
    assert run(job, "-m", "sweep.resume=sweep") == 0  # its process is gone: killed without a word
    assert len(job.calls) == 2


def test_a_job_of_another_machine_runs_as_long_as_it_writes(tmp_path):
    (tmp_path / "0").mkdir()
    state = State(0, "job 0", folder="0", host="elsewhere", process=1)
    assert state.is_running(tmp_path)
    old = time.time() - 2 * record.SECONDS_OF_SILENCE
    state.started = old
    os.utime(tmp_path / "0", (old, old))
    assert not state.is_running(tmp_path)
    (tmp_path / "0" / "history.csv").touch()
    assert state.is_running(tmp_path)
    state.state = DONE
    assert not state.is_running(tmp_path)


def test_a_signal_ends_the_sweep_and_says_how_to_go_on():
    Path("stub.py").write_text(
        "import time\n"
        "from lmzoo import cli\n"
        "def job(config, folder, resuming):\n"
        "    if config.seed == 1:\n"
        "        (folder / 'metrics.json').write_text('{}')\n"
        "        return\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "cli.run(job)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "stub.py", "-m", "seed=1,2,3", "hydra.sweep.dir=sweep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"sweep.resume={Path.cwd() / 'sweep'}" in error
    assert {n: s.state for n, s in read_states(Path("sweep")).items()} == {0: DONE, 1: STOPPED}


def test_jobs_whose_processes_an_interruption_has_ended_are_put_down_as_stopped(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    began = time.time()
    for number, (what, started, process) in enumerate(
        [(RUNNING, began, ended.pid), (DONE, began, ended.pid), (RUNNING, began - 60, ended.pid)]
    ):
        State(number, f"job {number}", what, started=started, process=process).write(tmp_path)
    put_down(tmp_path, began)
    # the last one belongs to another command
    assert {n: s.state for n, s in read_states(tmp_path).items()} == {0: STOPPED, 1: DONE, 2: RUNNING}


@pytest.mark.parametrize("is_announced", [True, False])
def test_so_they_are_where_a_sweeper_makes_jobs_as_it_goes(tmp_path, monkeypatch, is_announced):
    """Their beginning is known to their workers alone; an end before Hydra's sweep begins is no sweep's."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    sweeps: list[Announced] = []
    monkeypatch.setattr(folders, "_sweeps", sweeps)

    def launch(*given):
        if is_announced:
            sweeps.append(Announced(tmp_path, "joblib", 2, 8))
            State(0, "job 0", RUNNING, process=ended.pid, folder="0").write(tmp_path)
            (tmp_path / "0").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("lmzoo.sweeps.command.launch", launch)
    with pytest.raises(KeyboardInterrupt):
        sweep(Asked(["-m"], [], ["hydra/sweeper=optuna"], {}), Jobs(Recorder(), lambda _: nullcontext()))
    assert [s.state for s in read_states(tmp_path).values()] == [STOPPED] * is_announced


BY_OPTUNA = [
    *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"),
    "optimizer.lr=tag(log,interval(1e-4,1e-2))",
]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [["seed=1,2,3"], BY_OPTUNA])
def test_a_signal_to_a_launcher_with_workers_leaves_no_job_running(asked):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    if asked is BY_OPTUNA:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    Path("stub.py").write_text(
        "import time\n"
        "from lmzoo import cli\n"
        "def job(config, folder, resuming):\n"
        "    (folder / 'started').write_text('')\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    cli.run(job)\n"
    )
    launcher = ["hydra.sweep.dir=sweep", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = subprocess.Popen(
        [sys.executable, "stub.py", "-m", *launcher, *asked],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while len([*Path("sweep").glob("*/started")]) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (f"sweep.resume={Path.cwd() / 'sweep'}" in error) == (asked is not BY_OPTUNA)
    assert {n: s.state for n, s in read_states(Path("sweep")).items()} == {0: STOPPED, 1: STOPPED}


# ---------------------------------------------------------------------------------- how far it is


def state(number: int, what: str, started: float, ended: float | None = None, kind: str = "a") -> State:
    return State(number, f"job {number}", what, started=started, ended=ended, kind=kind)


def test_time_left_goes_by_the_kind_of_a_run():
    jobs = [Job(n, [], kind) for n, kind in enumerate(["fast", "slow", "fast", "slow", "fast"])]
    states = {0: state(0, DONE, 0, 10, "fast"), 1: state(1, DONE, 10, 110, "slow")}
    assert seconds_left(jobs, {}, 1, 0) is None
    assert seconds_left(jobs, states, 1, 110) == 10 + 100 + 10
    states[2] = state(2, RUNNING, 110, kind="fast")
    assert seconds_left(jobs, states, 1, 114) == 6 + 100 + 10
    assert seconds_left(jobs, states, 2, 114) == 100  # the longest cannot be shared
    assert seconds_left(jobs, states, 1, 500) == 100 + 10
    states[3] = state(3, FAILED, 120, 121, "slow")
    assert seconds_left(jobs, states, 1, 114) == 6 + 10
    # of a kind that nothing is known of: the mean of all
    assert seconds_left([*jobs[:2], Job(5, [], "new")], states, 1, 114) == 55


def test_the_line():
    jobs = [Job(n, [], "a") for n in range(6)]
    states = {
        0: state(0, DONE, 0, 60),
        1: state(1, FAILED, 60, 61),
        2: state(2, SKIPPED, 61, 61),
        3: state(3, RUNNING, 61),
        9: state(9, DONE, 0, 60),  # another command's
    }
    shown = line(jobs, states, 1, 91)
    assert shown == "sweep  1 of 6 done · 1 running · 1 failed · 1 skipped · 2 left · about 2 min"
    assert line(jobs[:1], states, 1, 91) == "sweep  1 of 1 done"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "1 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3600, "60 min"),
        (5400, "1 h 30 min"),
        (36300, "10 h 05 min"),
    ],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_how_many_at_once():
    assert at_once_of(None, 7) == 7
    assert at_once_of(3, 7) == 3
    assert at_once_of(30, 7) == 7
    assert at_once_of(-1, 1000) == os.cpu_count()
