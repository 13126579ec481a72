"""Which runs are read and refused, what they are matched by, and what is compared with what."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from compared_runs import add_bits, add_nothing, add_pairs, add_task, make_run, three_families
from lmzoo.analysis.arms import names_of
from lmzoo.analysis.curves import costs_at
from lmzoo.analysis.matching import match
from lmzoo.analysis.outcomes import of_task
from lmzoo.analysis.records import read_runs
from lmzoo.analysis.results import MOST_PAIRED
from lmzoo.compare import compare
from lmzoo.errors import LmzooError


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> Path:
    """ELMo, GPT and BERT, three seeds each; to be read alone."""
    root = tmp_path_factory.mktemp("families")
    three_families(root)
    return root


@pytest.fixture(scope="module")
def found(families) -> dict:
    return compare(f"{families}/*-*")


def cell(results: dict, name: str, kind: str | None = None) -> dict:
    (one,) = [c for c in results["cells"] if c["name"] == name and kind in (None, c["kind"])]
    return one


def pair(cell: dict, arm: str, against: str) -> dict:
    (one,) = [c for c in cell["comparisons"] if (c["arm"], c["against"]) == (arm, against)]
    return one


# ---------------------------------------------------------------------------------- which runs


def test_folders_and_patterns_name_runs_each_once_in_order(tmp_path):
    for number in (0, 1, 2, 10):
        make_run(tmp_path / "sweep" / str(number), seed=number)
    (tmp_path / "sweep" / "notes").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text("a: 1")
    alone = make_run(tmp_path / "alone", "seq_len=64")
    read = read_runs([alone, f"{tmp_path}/sweep/*", tmp_path / "sweep" / "0"])
    assert [run.name for run in read.runs] == ["alone", "sweep/0", "sweep/1", "sweep/2", "sweep/10"]
    assert read.together == tmp_path.resolve()
    assert read.passed_over == {f"{tmp_path}/sweep/*": 1}
    assert compare([alone, f"{tmp_path}/sweep/*"])["passed_over"] == {f"{tmp_path}/sweep/*": 1}


def test_what_w_and_b_keeps_in_a_run_is_no_run(tmp_path):
    folder = make_run(tmp_path / "a")
    inside = folder / "wandb" / "offline-run-20261121_082539-wgsnxy65" / "files"
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("model:\n  value: {name: bert}\n")
    assert [run.name for run in read_runs([f"{tmp_path}/**"]).runs] == ["a"]


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tmp_path):
    make_run(tmp_path / "run[1]")
    assert [run.name for run in read_runs([tmp_path / "run[1]"]).runs] == ["run[1]"]


def test_what_is_no_run_is_refused_by_name(tmp_path):
    make_run(tmp_path / "sweep" / "0")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    for given, message in (
        (tmp_path / "nowhere", r"runs=\S*nowhere: there is no such folder$"),
        (f"{tmp_path}/a,{tmp_path}/b", r"several are written \[A,B\]"),
        (tmp_path / "file", "file is a file"),
        (tmp_path / "notes", r"notes is no run: there is no config.yaml in it$"),
        (tmp_path / "sweep", r"sweep is no run.*its runs are runs='\S*sweep/\*'"),
        (f"{tmp_path}/no*", "of 1 folders that it names none is a run"),
        (f"{tmp_path}/zzz*", r"zzz\* names no folder"),
    ):
        with pytest.raises(LmzooError, match=message):
            read_runs([given])
    with pytest.raises(LmzooError, match="there is no run to compare"):
        read_runs([])


def test_an_unfinished_run_is_refused_by_name_unless_it_is_asked_for(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=2, finished=False)
    with pytest.raises(LmzooError, match=r"not finished.*/b; .*unfinished=true"):
        compare(f"{tmp_path}/*")
    results = compare(f"{tmp_path}/*", unfinished=True)
    half = results["runs"][1]
    assert not half["finished"]
    assert half["ledger"]["tokens_seen"] == 800_000
    assert half["ledger"]["steps"] == 400
    assert half["ledger"]["seconds"] == pytest.approx(132 * 1.002 / 5, rel=1e-4)
    flops = next(a for a in results["matching"]["amounts"] if a["name"] == "flops")
    assert flops["equal"] is None  # no row tells of it


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("config.yaml", "a: 1", "config.yaml is no run's config"),
        ("metrics.json", "{", "metrics.json cannot be read"),
        ("metrics.json", "[]", "metrics.json holds no object"),
        ("metrics.json", "{}", "metrics.json is not what a run writes"),
        ("history.csv", "step,train/clm_loss\n1,oh\n", "history.csv is damaged"),
        ("evaluations/minimal_pairs.json", "{}", "minimal_pairs.json is not what a yardstick"),
        ("evaluations/minimal_pairs.items.jsonl.gz", "no gzip", "items.jsonl.gz is damaged"),
        ("../search.json", "{}", "search.json is not what a search writes"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, file, content, message):
    folder = make_run(tmp_path / "sweep" / "a", "model=gpt")
    add_pairs(folder, 0.7)
    (folder / file).write_text(content)
    with pytest.raises(LmzooError, match=message):
        compare(folder)


def test_items_that_are_not_as_many_as_were_measured_are_refused(tmp_path):
    folder = make_run(tmp_path / "a", "model=gpt")
    add_pairs(folder, 0.7)
    path = folder / "evaluations" / "minimal_pairs.items.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(lines[:-1])))
    with pytest.raises(LmzooError, match="179 items where 180 were measured"):
        compare(folder)


def test_a_yardstick_on_other_data_is_refused_by_name(tmp_path):
    for seed, which in ((1, "blimp"), (2, "another file")):
        add_pairs(make_run(tmp_path / f"run-{seed}", seed=seed), 0.7, which=which)
    with pytest.raises(
        LmzooError, match=r"minimal_pairs was taken on different data in \S*run-1.*and in \S*run-2"
    ):
        compare(f"{tmp_path}/*")


def test_a_task_on_other_items_is_refused_by_name(tmp_path):
    for seed, count in ((1, 50), (2, 40)):
        add_task(make_run(tmp_path / f"run-{seed}", seed=seed), "sentence", 0.8, count=count)
    with pytest.raises(LmzooError, match=r"toy-frozen was taken on different data"):
        compare(f"{tmp_path}/*")


def test_a_seed_does_not_count_twice(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "hardware.micro_batch=4", "logger.every_steps=5")  # nothing that is learned
    with pytest.raises(LmzooError, match=r"/a and \S*/b have the same config and seed 1"):
        compare(f"{tmp_path}/*")


# ---------------------------------------------------------------------------------- arms


def test_runs_that_differ_in_seed_alone_are_one_arm(found):
    assert found["arms"] == {
        model: {"runs": [f"{model}-{seed}" for seed in (1, 2, 3)], "seeds": [1, 2, 3]}
        for model in ("bert", "elmo", "gpt")
    }
    assert found["differs"]["objective.name"] == {"bert": "mlm", "elmo": "bilm", "gpt": "clm"}
    assert found["differs"]["model.num_heads"]["elmo"] == "–"
    assert found["equal"]["optimizer.lr"] == "0.003"
    assert found["equal"]["tokenizer.vocab_size"] == "8192"
    assert not set(found["equal"]) & set(found["differs"])
    assert "seed" not in found["equal"]
    assert "logger.name" not in found["equal"]


def test_arms_are_named_by_as_little_as_tells_them_apart():
    gpt = {"model.name": "gpt", "objective.name": "clm", "context": "past", "optimizer.lr": 1e-3}
    bert = gpt | {
        "model.name": "bert",
        "objective.name": "mlm",
        "context": "full",
        "objective.mask_rate": 0.15,
    }
    assert names_of([gpt, bert]) == ["gpt", "bert"]
    assert names_of([gpt]) == ["gpt clm"]
    assert names_of([bert, bert | {"objective.mask_rate": 0.3}]) == ["mask_rate=0.15", "mask_rate=0.3"]
    several = [gpt, bert, bert | {"objective.mask_rate": 0.3}, bert | {"objective.name": "clm"}]
    assert names_of(several) == ["gpt", "bert mlm mask_rate=0.15", "bert mlm mask_rate=0.3", "bert clm"]
    budgets = [gpt | {"budget": "steps=1", "optimizer.lr": 1.0}, gpt | {"budget": "tokens=4e+06"}]
    assert names_of(budgets) == ["steps=1", "tokens=4e+06"]
    files = [gpt | {"data.train": f"/long/path/{name}.txt"} for name in ("a", "b")]
    assert names_of(files) == ["train=a.txt", "train=b.txt"]
    same = [gpt | {"data.train": f"/{place}/a.txt"} for place in ("one", "two")]
    assert names_of(same) == ["train=/one/a.txt", "train=/two/a.txt"]


def test_arms_of_a_size_are_named_by_it(tmp_path):
    make_run(tmp_path / "a", "size=tiny")
    make_run(tmp_path / "b", "size=mini")
    assert list(compare(f"{tmp_path}/*")["arms"]) == ["tiny", "mini"]


# ---------------------------------------------------------------------------------- matched


def test_what_is_held_equal_is_derived_from_the_ledgers(found):
    matching = found["matching"]
    assert matching["equal"] == ["tokens_seen", "unique_tokens", "params_non_embedding", "params_total"]
    assert matching["matched"]
    assert matching["head"].startswith("Matched to 2 %: tokens seen, unique tokens, parameters without")
    assert "FLOPs 5.06:1 (elmo to bert)" in matching["head"]
    assert "seconds of training 4.21:1 (elmo to bert)" in matching["head"]


def arms_with(ledgers: dict[str, list[dict]]) -> dict:
    class Run:
        def __init__(self, ledger: dict) -> None:
            self.ledger = ledger

    usual = {"tokens_seen": 100, "flops": 10.0, "seconds": 5.0, "predicted_tokens": 50, "unique_tokens": 100,
             "params_total": 10, "params_non_embedding": 5}  # fmt: skip
    return {arm: [Run(usual | each) for each in several] for arm, several in ledgers.items()}


def amount(matching, name: str):
    return next(each for each in matching.amounts if each.name == name)


def test_two_percent_are_equal_and_three_are_not():
    near = match(arms_with({"a": [{}], "b": [{"flops": 10.19}]}))
    assert amount(near, "flops").equal
    far = match(arms_with({"a": [{}], "b": [{"flops": 10.3}]}))
    assert amount(far, "flops").equal is False
    assert "FLOPs 1.030:1 (b to a)" in far.head()  # 1.02 could be 1.022, which is not within 2 %
    between = match(arms_with({"a": [{"seconds": 5.0}, {"seconds": 6.0}], "b": [{"seconds": 5.5}]}))
    assert amount(between, "seconds").equal is False
    assert "seconds of training (from run to run)" in between.head()


def test_a_table_that_is_not_matched_says_so():
    nothing = {"tokens_seen": 300, "flops": 90.0, "seconds": 9.0, "predicted_tokens": 5}
    by_budget = match(arms_with({"a": [{}], "b": [nothing]}))
    assert not by_budget.matched
    assert by_budget.head().startswith("NOT MATCHED by budget. Equal to 2 %: unique tokens, parameters")
    assert "FLOPs 9.00:1 (b to a)" in by_budget.head()
    by_size = match(arms_with({"a": [{}], "b": [{"params_total": 20, "params_non_embedding": 9}]}))
    assert by_size.head().startswith("NOT MATCHED by size. Equal")
    both = match(arms_with({"a": [{}], "b": [nothing | {"params_total": 20, "params_non_embedding": 9}]}))
    assert both.head().startswith("NOT MATCHED by budget nor by size.")
    unknown = match(arms_with({"a": [{}], "b": [{"flops": None}]}))
    assert "Not known of all: FLOPs." in unknown.head()
    assert match(arms_with({"a": [{}, {}]})).head().startswith("One arm alone")


# ---------------------------------------------------------------------------------- what may be compared


def test_minimal_pairs_rank_all_kinds(found):
    pairs = cell(found, "minimal_pairs")
    assert [row["arm"] for row in pairs["rows"]] == ["bert", "elmo", "gpt"]
    assert [(c["arm"], c["against"]) for c in pairs["comparisons"]] == [
        ("elmo", "bert"), ("gpt", "bert"), ("gpt", "elmo")
    ]  # fmt: skip
    assert pairs["units"] == 180
    assert pairs["drawn"] == "pairs within their paradigms"
    row = pairs["rows"][0]
    assert row["controls"] == {"chance": 50.0, "5-gram of its text": 50.0}
    assert row["seeds"] == [1, 2, 3]
    assert row["mean"] == pytest.approx(np.mean(row["figures"]))
    assert row["low"] < row["mean"] < row["high"]
    assert row["method"] == "t over seeds and items"
    assert any("lstm 69.8" in note for note in pairs["notes"])


def test_a_clear_difference_is_settled_and_a_small_one_is_not(found):
    pairs = cell(found, "minimal_pairs")
    clear, open_still = pair(pairs, "elmo", "bert"), pair(pairs, "gpt", "elmo")
    assert (clear["verdict"], clear["paired"], clear["about"]) == ("better", True, "the arms")
    assert clear["p"] < clear["p_holm"] < 0.05
    assert clear["low"] > 0
    assert clear["two_level"][0] > 0
    assert clear["seeds_to_settle"] is None
    assert open_still["verdict"] == "inconclusive"
    assert open_still["seeds_to_settle"] not in (None, 3)
    assert open_still["permutation_p"] is None


def test_readings_of_one_model_are_figures_of_their_own(tmp_path):
    """None is mixed with another; what reads so by itself stands beside it, on the same items alone."""
    for seed in (1, 2):
        for name, right, other in (("hybrid", 0.85, 0.6), ("half", 0.7, 0.65)):
            share = "0.0625" if name == "hybrid" else "0.5"
            changes = ["model=bert", "objective=hybrid", f"objective.causal_share={share}"]
            folder = make_run(tmp_path / f"{name}-{seed}", *changes, seed=seed)
            add_pairs(folder, right, key=f"{name} {seed}", told="full")
            add_pairs(folder, other, key=f"{name} past {seed}", reading="past")
        for model, right in (("gpt", 0.8), ("bert", 0.75), ("elmo", 0.5)):
            add_pairs(
                make_run(tmp_path / f"{model}-{seed}", f"model={model}", seed=seed), right, key=f"{seed}"
            )
    results = compare(f"{tmp_path}/*")
    plain, past = cell(results, "minimal_pairs"), cell(results, "minimal_pairs (read as past)")
    assert [each["name"] for each in results["cells"] if each["section"] == "yardstick"] == [
        "minimal_pairs",
        "minimal_pairs (read as past)",
    ]

    def figures(of: dict) -> dict[str, list[float]]:
        return {row["runs"][0][:-2]: row["figures"] for row in of["rows"]}

    def written(place: str, name: str) -> list[float]:
        files = [
            tmp_path / f"{name}-{seed}" / "evaluations" / place / "minimal_pairs.json" for seed in (1, 2)
        ]
        return [json.loads(file.read_text())["figure"] for file in files]

    names = ("hybrid", "half", "gpt", "bert", "elmo")
    assert figures(plain) == {name: written("", name) for name in names}
    hybrids = {name: written("reading-past", name) for name in ("hybrid", "half")}
    assert figures(past) == hybrids | {"gpt": written("", "gpt")}
    assert (past["drawn"], past["units"]) == ("pairs within their paradigms", 180)
    assert all(
        each["paired"] and each["method"] == plain["comparisons"][0]["method"] for each in past["comparisons"]
    )
    assert "read so by itself, with the figure of minimal_pairs: gpt" in past["notes"]
    assert set(results["phenomena"]["arms"]) == {row["arm"] for row in plain["rows"]}


@pytest.mark.parametrize(
    ("reading", "model", "items", "together"),
    [
        ("past", "gpt", 60, True),
        ("past", "bert", 60, False),
        ("full", "bert", 60, True),
        ("full", "elmo", 60, False),
        ("past", "gpt", 50, False),  # asked other items, it is not held against the hybrid
    ],
)
def test_what_reads_so_by_itself_stands_beside_a_reading(tmp_path, reading, model, items, together):
    add_pairs(make_run(tmp_path / "a", "model=bert", "objective=hybrid"), 0.7, reading=reading)
    add_pairs(make_run(tmp_path / "b", f"model={model}"), 0.7, items=items)
    (tmp_path / "a" / "evaluations" / "reading-sideways").mkdir()
    (tmp_path / "a" / "evaluations" / "reading-sideways" / "minimal_pairs.json").write_text("{}")
    rows = cell(compare(f"{tmp_path}/*"), f"minimal_pairs (read as {reading})")["rows"]
    assert [row["runs"] for row in rows] == [["a"], ["b"]][: 1 + together]


def test_a_reading_without_a_figure_brings_no_others_along(tmp_path):
    """The first of two hybrid models has no figure: the second one's is what others stand beside."""
    for name, length in (("a", 64), ("b", 32)):
        folder = make_run(tmp_path / name, "model=bert", "objective=hybrid", f"seq_len={length}")
        add_nothing(folder, "word_senses", "none is known", reading="full")
    add_nothing(tmp_path / "a", "minimal_pairs", "none is known", reading="full")
    add_pairs(tmp_path / "b", 0.6, reading="full")
    add_pairs(make_run(tmp_path / "c", "model=bert", "objective=hybrid", "seq_len=16"), 0.7, told="full")
    add_nothing(make_run(tmp_path / "d", "model=bert"), "word_senses", "none is known")
    results = compare(f"{tmp_path}/*")
    found = cell(results, "minimal_pairs (read as full)")
    assert [row["runs"] for row in found["rows"]] == [["b"], ["c"]]
    assert any(note.startswith("read so by itself, with the figure of") for note in found["notes"])
    lacking = [(each["name"], each["arm"]) for each in results["lacking"]]
    arms = {run["name"]: run["arm"] for run in results["runs"]}
    assert sorted(lacking) == sorted(
        [
            ("minimal_pairs (read as full)", arms["a"]),
            ("word_senses (read as full)", arms["a"]),
            ("word_senses (read as full)", arms["b"]),
            ("word_senses", arms["d"]),
        ]
    )


def test_a_reading_along_the_way_is_a_line_of_its_own(tmp_path):
    folder = make_run(tmp_path / "a", "model=bert", "objective=hybrid")
    add_pairs(folder, 0.6, reading="past")
    place = folder / "evaluations"
    for step in (100, 1000):
        (place / f"step-{step}").mkdir()
        shutil.copytree(place / "reading-past", place / f"step-{step}" / "reading-past")
    (line,) = compare(folder)["along"]
    assert (line["name"], line["step"]) == ("minimal_pairs (read as past)", [100, 1000, 2000])


def test_bits_per_byte_of_two_kinds_are_kept_apart(found):
    assert cell(found, "bits_per_byte", "log-likelihood")["comparisons"] == []
    assert cell(found, "bits_per_byte", "mean of two directions")["comparisons"] == []
    (apart,) = [each for each in found["apart"] if each["name"] == "bits_per_byte"]
    assert apart["groups"] == {"mean of two directions": ["elmo"], "log-likelihood": ["gpt"]}
    assert "different questions" in apart["reason"]
    lacking = {
        "name": "bits_per_byte",
        "arm": "bert",
        "reason": "a masked model gives no probability of a text",
    }
    assert found["lacking"] == [lacking]


def test_losses_of_different_objectives_are_kept_apart(found):
    assert {c["name"] for c in found["cells"] if c["section"] == "loss"} == {
        "valid masked token loss", "valid forward loss", "valid backward loss", "valid next token loss"
    }  # fmt: skip
    assert all(not c["comparisons"] for c in found["cells"] if c["section"] == "loss")
    (apart,) = [each for each in found["apart"] if each["name"] == "valid losses"]
    assert apart["groups"]["next token (clm)"] == ["gpt"]
    assert cell(found, "valid next token loss")["rows"][0]["controls"] == {"unigram entropy": 6.86}


@pytest.mark.parametrize(
    ("overrides", "content", "together"),
    [
        (["optimizer.lr=1e-3"], "c0ffee" * 5, True),
        (["optimizer.lr=1e-3"], "another", False),
        (["seq_len=64"], "c0ffee" * 5, False),
    ],
)
def test_losses_are_compared_on_one_text_alone(tmp_path, overrides, content, together):
    for seed in (1, 2):
        make_run(tmp_path / f"a{seed}", "model=gpt", seed=seed, loss=4.5 + seed / 100)
        make_run(
            tmp_path / f"b{seed}", "model=gpt", *overrides, seed=seed, loss=4.7 + seed / 90, content=content
        )
    results = compare(f"{tmp_path}/*")
    cells = [c for c in results["cells"] if c["name"] == "valid next token loss"]
    assert len(cells) == (1 if together else 2)
    assert len(cells[0]["comparisons"]) == together
    assert bool(results["apart"]) != together
    if together:
        (one,) = cells[0]["comparisons"]
        assert one["method"] == "t over seeds"
        assert one["difference"] == pytest.approx(0.2 + 1.5 * (1 / 90 - 1 / 100))


def test_a_run_that_does_not_tell_its_text_is_kept_apart_with_that_reason(tmp_path):
    make_run(tmp_path / "new", "model=gpt")
    make_run(tmp_path / "old", "model=gpt", seed=2, content=None)
    (apart,) = compare(f"{tmp_path}/*")["apart"]
    assert apart["name"] == "valid next token loss"
    assert apart["reason"].endswith("as a run of an earlier version does not tell its text")


def test_masked_tokens_are_one_question_with_next_sentences_and_without(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path / f"a{seed}", "model=bert_2018", "data.view=pairs", seed=seed)
        make_run(
            tmp_path / f"b{seed}", "model=bert_2018", "objective=mlm", "data.view=pairs", seed=seed, loss=4.4
        )
    results = compare(f"{tmp_path}/*")
    assert list(results["arms"]) == ["mlm_nsp", "mlm"]
    assert len(cell(results, "valid masked token loss")["comparisons"]) == 1
    nsp = cell(results, "valid next sentence loss")
    assert [row["arm"] for row in nsp["rows"]] == ["mlm_nsp"]
    assert nsp["rows"][0]["controls"] == {}


def test_what_describes_is_not_ranked(tmp_path):
    from lmzoo.yardsticks.base import Measured, hash_of, save

    for place, (model, at) in enumerate({"gpt": 0.6, "bert": 0.5}.items()):
        folder = make_run(tmp_path / model, f"model={model}")
        items = [{"id": str(n), "adjusted_top_layer": at + 0.001 * n * (1 + place)} for n in range(30)]
        figure = float(np.mean([i["adjusted_top_layer"] for i in items]))
        measured = Measured(
            figure, "cosine", False, "adjusted self-similarity", items=items, items_hash=hash_of(["x"])
        )
        save(folder, "contextuality", measured, {})
    found = cell(compare(f"{tmp_path}/*"), "contextuality")
    assert not found["merit"]
    assert found["comparisons"][0]["verdict"] is None
    assert found["comparisons"][0]["p"] < 0.01
    assert "no merit" in found["notes"][0]


def test_one_seed_is_said_of_these_runs_alone(tmp_path):
    for model, right in {"gpt": 0.9, "bert": 0.5}.items():
        add_pairs(make_run(tmp_path / model, f"model={model}"), right)
    one = cell(compare(f"{tmp_path}/*"), "minimal_pairs")["comparisons"][0]
    assert (one["arm"], one["against"], one["verdict"], one["about"]) == (
        "gpt",
        "bert",
        "better",
        "these runs alone",
    )
    assert one["method"] == "bootstrap over items"
    assert one["two_level"] is None


def test_without_its_items_a_yardstick_is_compared_over_seeds(tmp_path):
    for seed in (1, 2):
        for model, right in {"gpt": 0.9, "bert": 0.5}.items():
            add_pairs(
                make_run(tmp_path / f"{model}{seed}", f"model={model}", seed=seed), right, key=str(seed)
            )
    (tmp_path / "gpt1" / "evaluations" / "minimal_pairs.items.jsonl.gz").unlink()
    found = cell(compare(f"{tmp_path}/*"), "minimal_pairs")
    assert found["why_not_drawn"] == "minimal_pairs.items.jsonl.gz of a run is not there"
    assert found["comparisons"][0]["method"] == "t over seeds"


def test_a_figure_that_is_not_its_items_is_not_drawn_again(tmp_path):
    folder = make_run(tmp_path / "a", "model=gpt")
    add_pairs(folder, 0.7)
    path = folder / "evaluations" / "minimal_pairs.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"figure": 12.0}))
    assert re.fullmatch(
        r"the items give \d\d\.\d+ and not the figure, 12",
        cell(compare(folder), "minimal_pairs")["why_not_drawn"],
    )


def test_blocks_cut_otherwise_stand_in_one_table_without_pairs_of_items(tmp_path):
    """Bits per byte need no common tokenizer; but then there are no common blocks."""
    for seed in (1, 2):
        add_bits(make_run(tmp_path / f"a{seed}", "model=gpt", seed=seed), 1.7 + seed / 100, blocks=40)
        add_bits(
            make_run(tmp_path / f"b{seed}", "model=gpt", "tokenizer.vocab_size=4096", seed=seed),
            1.8,
            blocks=44,
        )
    found = cell(compare(f"{tmp_path}/*"), "bits_per_byte")
    assert "other blocks" in found["why_not_drawn"]
    assert found["comparisons"][0]["method"] == "t over seeds"
    assert not found["comparisons"][0]["paired"]  # nor the same batches


def test_of_many_arms_each_is_held_against_the_first(tmp_path):
    for number in range(MOST_PAIRED + 2):
        add_pairs(make_run(tmp_path / f"{number:02}", f"optimizer.lr={1 + number}e-3"), 0.5 + number / 50)
    comparisons = cell(compare(f"{tmp_path}/*"), "minimal_pairs")["comparisons"]
    assert [c["against"] for c in comparisons] == ["lr=0.001"] * (MOST_PAIRED + 1)


def test_six_seeds_have_a_permutation_test(tmp_path):
    for seed in range(1, 7):
        for model, right in {"gpt": 0.9, "bert": 0.5}.items():
            add_pairs(
                make_run(tmp_path / f"{model}{seed}", f"model={model}", seed=seed), right, key=str(seed)
            )
    one = cell(compare(f"{tmp_path}/*"), "minimal_pairs")["comparisons"][0]
    assert one["permutation_p"] == one["permutation_p_holm"] == 2 / 64


# ---------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("shape", ["sentence", "tagging", "matthews", "f1", "entities", "spans"])
def test_every_score_is_made_again_of_its_predictions(tmp_path, shape):
    for seed in (1, 2):
        for model, accuracy in {"gpt": 0.95, "bert": 0.6}.items():
            folder = make_run(tmp_path / f"{model}{seed}", f"model={model}", seed=seed)
            add_task(folder, shape, accuracy + seed / 100)
    found = cell(compare(f"{tmp_path}/*"), "toy-frozen")
    assert found["why_not_drawn"] is None
    assert found["drawn"] == "items of the task"
    one = found["comparisons"][0]
    assert (one["arm"], one["against"]) == ("gpt", "bert")
    assert one["difference"] > 10
    assert found["rows"][0]["controls"] == {"majority": 40.0, "static vectors": 45.0}
    assert any(note.startswith("context in the task: past in") for note in found["notes"])
    assert any("mean of 2 trainings" in note for note in found["notes"])


def test_a_score_that_nobody_can_make_again_is_compared_over_seeds(tmp_path):
    folder = make_run(tmp_path / "a")
    place = add_task(folder, "sentence", 0.8)
    record = json.loads((place / "result.json").read_text())
    (place / "result.json").write_text(json.dumps(record | {"metric": "pearson_spearman"}))
    (run,) = read_runs([folder]).runs
    assert of_task([run.tasks["toy-frozen"]]) == "pearson_spearman is not made again from the predictions"


def test_tasks_learned_otherwise_are_kept_apart(tmp_path):
    add_task(make_run(tmp_path / "a", "model=gpt"), "sentence", 0.8, layers="mix")
    add_task(make_run(tmp_path / "b", "model=bert"), "sentence", 0.7, layers="top")
    results = compare(f"{tmp_path}/*")
    assert len([c for c in results["cells"] if c["section"] == "task"]) == 2
    assert [each["name"] for each in results["apart"] if "settings" in each["reason"]] == ["toy-frozen"]
    assert results["tasks"] == ["toy-frozen"]


# ---------------------------------------------------------------------------------- the rest of the results


def test_rates_that_were_searched_are_told_of_with_what_is_to_be_said(tmp_path):
    for number, model in enumerate(("gpt", "bert")):
        make_run(tmp_path / "sweep" / str(number), f"model={model}")
    trials = [
        {"lr": 3e-3, "loss": 4.9, "run": "x"},
        {"lr": 1e-3, "loss": 5.0},
        {"lr": 1e-2, "loss": None},
        {"lr": 3e-2, "loss": 7.0},
    ]
    arms = {
        "gpt": {"metric": "valid/loss", "trials": trials, "chosen": 3e-3},
        "bert": {"metric": "valid/loss", "trials": trials[:2], "chosen": 3e-3},
    }
    (tmp_path / "sweep" / "search.json").write_text(json.dumps({"arms": arms}))
    gpt, bert = compare(f"{tmp_path}/sweep/*")["search"]
    assert [t["lr"] for t in gpt["trials"]] == [1e-3, 3e-3, 1e-2, 3e-2]
    assert gpt["chosen"] == 3e-3
    assert gpt["remarks"] == ["not as many trials as other arms"]
    assert len(bert["remarks"]) == 3  # too few, unequal, and the best at the edge
    make_run(tmp_path / "alone")
    assert compare(tmp_path / "alone")["search"] == []


def test_costs_along_a_run_are_those_of_its_history_and_ledger(tmp_path):
    (run,) = read_runs([make_run(tmp_path / "a", "model=gpt")]).runs
    costs = costs_at(run, [500, 1000, 2000])
    assert costs["tokens"] == pytest.approx([1e6, 2e6, 4e6])
    assert costs["seconds"] == pytest.approx([288.288 / 4, 288.288 / 2, 288.288], rel=1e-4)
    assert costs["flops"] == pytest.approx([36.4e12 / 4, 36.4e12 / 2, 36.4e12])


def test_curves_are_thinned_and_have_all_costs(found):
    line = next(each for each in found["losses"] if each["run"] == "gpt-1")
    assert line["part"] == "clm"
    assert line["unigram_entropy"] == 6.86
    assert len(line["train"]["step"]) == len(line["train"]["value"]) == len(line["train"]["flops"]) == 50
    assert line["valid"]["step"] == [400, 800, 1200, 1600, 2000]
    assert line["train"]["value"][0] > line["train"]["value"][-1]


def test_yardsticks_along_the_budget_end_with_the_last_one(tmp_path):
    folder = make_run(tmp_path / "a", "model=gpt")
    for step in (64, 128, 1024):
        add_bits(folder, 2.5 - step / 2000, step=step)
    add_bits(folder, 1.7)
    (line,) = compare(folder)["along"]
    assert line["step"] == [64, 128, 1024, 2000]
    assert line["value"][0] > line["value"][-1]
    assert line["tokens"] == pytest.approx([128e3, 256e3, 2048e3, 4e6])
    add_bits(folder, 1.9, step=512, text="another text")
    with pytest.raises(LmzooError, match="bits_per_byte along the way was taken on different data"):
        compare(folder)


def test_phenomena_and_layers_are_means_over_the_runs(tmp_path):
    for seed in (1, 2):
        folder = make_run(tmp_path / str(seed), "model=elmo", seed=seed)
        add_pairs(folder, 0.7, key=str(seed))
        add_task(folder, "sentence", 0.8, mixture=True)
    results = compare(f"{tmp_path}/*")
    told = results["phenomena"]
    assert told["rows"] == ["island_effects", "binding", "ellipsis"]
    by_seed = [
        json.loads((tmp_path / s / "evaluations/minimal_pairs.json").read_text())["parts"]["phenomena"]
        for s in "12"
    ]
    assert told["arms"]["elmo bilm"]["binding"] == pytest.approx(
        (by_seed[0]["binding"] + by_seed[1]["binding"]) / 2
    )
    assert told["published"]["human"]["ellipsis"] == 90.0
    (layer,) = results["layers"]
    assert layer["s"] == [0.2, 0.3, 0.5]
    assert layer["gamma"] == pytest.approx(1.15)
    assert layer["trainings"] == 4


def test_no_n_gram_control_is_said_with_its_reason(tmp_path):
    folder = make_run(tmp_path / "a")
    add_pairs(folder, 0.7, ngram=False)
    found = cell(compare(folder), "minimal_pairs")
    assert found["rows"][0]["controls"] == {"chance": 50.0}
    assert "bert mlm: no n-gram control, as there is no training text beside this model" in found["notes"]


def test_the_same_runs_and_seed_give_the_same_results_and_more_runs_move_no_draw(families, found):
    again = compare(f"{families}/*-*")
    assert json.dumps(again, sort_keys=True) == json.dumps(found, sort_keys=True)
    two = compare([f"{families}/elmo-*", f"{families}/bert-*"])
    one, other = (
        pair(cell(two, "minimal_pairs"), "bert", "elmo"),
        pair(cell(found, "minimal_pairs"), "elmo", "bert"),
    )
    assert one["difference"] == pytest.approx(-other["difference"])
    assert one["p"] == pytest.approx(other["p"])
    assert compare(f"{families}/*-*", seed=1)["cells"][0]["rows"][0] != found["cells"][0]["rows"][0]


def test_a_loss_that_is_no_number_is_no_figure(tmp_path):
    folder = make_run(tmp_path / "a", "model=gpt")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["valid"]["clm_loss"] = float("nan")
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert [c for c in compare(folder)["cells"] if c["section"] == "loss"] == []


def test_a_config_of_another_version_is_read(tmp_path):
    """A key that is unknown here differs from its absence; one that the other version had not is its default."""
    make_run(tmp_path / "a", "model=gpt")
    make_run(tmp_path / "b", "model=gpt", seed=1)
    config = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
    config["model"]["new_key"] = 3
    del config["model"]["query_key_norm"], config["objective"]["label_smoothing"], config["averaging"]
    (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(config))
    assert compare(f"{tmp_path}/*")["differs"] == {"model.new_key": {"gpt clm": "–", "new_key=3": "3"}}


def test_nothing_is_written_where_nothing_is_asked_for(families):
    before = sorted(path for path in families.rglob("*"))
    compare([families / "gpt-1"])
    assert sorted(path for path in families.rglob("*")) == before


def test_a_figure_of_an_unknown_yardstick_is_compared_over_seeds(tmp_path):
    from lmzoo.yardsticks.base import Measured, hash_of, save

    for seed in (1, 2, 3):
        for model, at in {"gpt": 1.0, "bert": 9.0}.items():
            folder = make_run(tmp_path / f"{model}{seed}", f"model={model}", seed=seed)
            save(
                folder,
                "own",
                Measured(at + seed / 10, "points", True, "own", items=[{"id": 1}], items_hash=hash_of("a")),
                {},
            )
    found = cell(compare(f"{tmp_path}/*"), "own")
    assert found["why_not_drawn"] == "how its figure is made of its items is not known here"
    assert found["comparisons"][0]["verdict"] in ("worse", "inconclusive")
    add_nothing(folder, "own", "none")
    assert compare(f"{tmp_path}/*")["lacking"]
