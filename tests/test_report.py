"""The report on the disk: what it says, that it stands alone, and that nothing in it is anything but text."""

from __future__ import annotations

import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compared_runs import add_bits, add_pairs, add_task, make_run, three_families
from lmzoo import compare as command
from lmzoo.analysis.report import FILES
from lmzoo.compare import compare
from lmzoo.errors import LmzooError

pytest.importorskip("matplotlib")

NASTY = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes, text by element, and whether every element that begins ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def said(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> tuple[Path, dict]:
    """A report over ELMo, GPT and BERT with three seeds, a task and a nasty name."""
    root = tmp_path_factory.mktemp("report") / "runs & more"
    made = three_families(root)
    for folder in made:
        add_task(folder, "sentence", 0.8, mixture=True)
        for step in (64, 512):
            if "gpt" in folder.name:
                add_bits(folder, 2.2, step=step)
    nasty = root / "<script>alert(1)<" / "script>"
    nasty.parent.mkdir()
    made[-1].rename(nasty)
    to = root.parent / "new" / "report"
    return to, compare([f"{root}/*-*", nasty], to)


@pytest.fixture(scope="module")
def page(reported) -> Page:
    return Page((reported[0] / "report.html").read_text(encoding="utf-8"))


def test_all_files_are_there_and_nothing_else(reported):
    names = {path.name for path in reported[0].iterdir()}
    drawn = {name for name in names if name.endswith(".svg")}
    assert drawn == {
        f"{name}.svg" for name in ("yardsticks", "yardsticks_along", "phenomena", "layers", "losses", "cost")
    }
    assert names == set(FILES) | drawn | {name.replace(".svg", ".png") for name in drawn}


def test_pictures_are_fine_enough_for_print(reported):
    """200 dots an inch: the two that are as wide as an A4 page's text have 1,480."""
    for name in ("losses", "cost"):
        width = int.from_bytes((reported[0] / f"{name}.png").read_bytes()[16:20], "big")
        assert width == 1480


def test_the_page_stands_alone(reported, page):
    text = (reported[0] / "report.html").read_text(encoding="utf-8")
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert (value or "").startswith(("data:image/svg+xml;base64,", "#"))
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert {link.removeprefix("#") for link in links if link} <= anchors
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 6


def test_every_figure_has_words_for_those_who_do_not_see_it(page):
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert all(len(image["alt"] or "") > 30 for image in images)
    assert page.said("figcaption") == [image["alt"] for image in images]


def test_a_run_named_as_a_script_is_text(reported, page):
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert NASTY in page.said("th", "td")
    markdown = (reported[0] / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in markdown
    assert NASTY in (reported[0] / "results.csv").read_text(encoding="utf-8")


def test_the_page_says_what_must_not_be_overlooked(page):
    said = " ".join(text for _, text in page.texts)
    for part in (
        "9 runs of 3 arms",
        "Matched to 2 %: tokens seen",
        "FLOPs 5.06:1 (elmo to bert)",
        "Learning rates were not searched",
        "One rate for all favours",
        "bits_per_byte: mean of two directions: elmo; log-likelihood: gpt. Why:",
        "valid losses: masked token (mlm): bert;",
        "bits_per_byte, bert: a masked model gives no probability of a text",
        "published: lstm 69.8, human 88.6",
        "5-gram of its text",
        "(Holm 1979)",
        "10,000 draws from seed 0",
    ):
        assert part in said, part
    heads = page.said("caption")
    assert sum("5.06:1" in head for head in heads) >= 3  # every table of all arms


def test_chapters_are_in_order(page):
    assert page.said("h2") == [
        "In short", "What differs, and what is equal", "What the runs cost", "Learning rates", "Yardsticks",
        "Tasks", "Losses", "Score against cost", "How this was made",
    ]  # fmt: skip


def test_a_verdict_is_told_apart_without_a_colour(page):
    cells = page.said("td")
    assert any(text.startswith("▲\u00a0better +") for text in cells)
    assert any(text.startswith("○\u00a0inconclusive") for text in cells)


def test_tables_have_as_many_cells_as_columns(reported):
    text = (reported[0] / "report.html").read_text(encoding="utf-8")
    tables = re.findall(r"<table>.*?</table>", text, re.S)
    assert len(tables) > 8
    for table in tables:
        rows = [len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr>(.*?)</tr>", table)]
        assert len(set(rows)) == 1


def test_markdown_has_the_same_tables(reported):
    markdown = (reported[0] / "report.md").read_text(encoding="utf-8")
    html = (reported[0] / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| -+:? \|", markdown, re.M)) == html.count("<table>")
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        lines = block.splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "![" in markdown
    assert "(yardsticks.png)" in markdown


def test_results_are_plain_values_with_stable_keys(reported):
    folder, returned = reported
    text = (folder / "results.json").read_text(encoding="utf-8")
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in results.json"))
    assert results == json.loads(json.dumps(returned))
    assert set(results) == {
        "lmzoo", "seed", "draws", "confidence", "folder", "passed_over", "runs", "arms", "differs", "equal",
        "matching", "tasks", "search", "cells", "apart", "lacking", "losses", "along", "lengths", "phenomena",
        "layers", "wandb",
    }  # fmt: skip


def test_the_keys_are_those_of_the_docs(reported):
    text = (Path(__file__).resolve().parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert set(reported[1]) <= listed


def test_the_table_of_figures_has_a_line_a_figure(reported):
    with (reported[0] / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [row for row in rows if row["name"] == "minimal_pairs"]
    assert [row["level"] for row in pairs].count("run") == 9
    arms = [row for row in pairs if row["level"] == "arm"]
    assert len(arms) == 3
    assert all(
        float(row["low"]) < float(row["value"]) < float(row["high"]) and row["seeds"] == "3" for row in arms
    )
    flops = [float(row["value"]) for row in rows if row["section"] == "ledger" and row["name"] == "flops"]
    assert sorted(set(flops)) == [11.9e12, 36.4e12, 60.2e12]


def test_the_same_runs_give_the_same_files(tmp_path):
    made = three_families(tmp_path / "runs", seeds=(1, 2))
    for to in ("a", "b"):
        compare(made, tmp_path / to, wandb_report=True)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_one_run_alone_has_a_report(tmp_path):
    folder = make_run(tmp_path / "only", "model=gpt")
    add_pairs(folder, 0.7)
    compare(folder, tmp_path / "to")
    page = Page((tmp_path / "to" / "report.html").read_text(encoding="utf-8"))
    said = " ".join(text for _, text in page.texts)
    assert "One arm alone: there is nothing to match." in said
    assert "In short" not in page.said("h2")


def test_a_run_with_nothing_measured_has_a_report(tmp_path):
    make_run(tmp_path / "a", finished=False)
    compare(tmp_path / "a", tmp_path / "to", unfinished=True)
    said = (tmp_path / "to" / "report.html").read_text(encoding="utf-8")
    assert "NOT FINISHED, and taken as they are: a." in said


def test_arms_that_are_not_matched_are_marked_in_every_head(tmp_path):
    for model, tokens in {"gpt": 4_000_000, "bert": 6_000_000}.items():
        add_pairs(make_run(tmp_path / model, f"model={model}", tokens=tokens), 0.6 + tokens / 4e7)
    compare(f"{tmp_path}/*", tmp_path / "to")
    page = Page((tmp_path / "to" / "report.html").read_text(encoding="utf-8"))
    (loud,) = [text for text in page.said("p") if text.startswith("NOT MATCHED")]
    assert "tokens seen 1.50:1 (bert to gpt)" in loud
    assert any("minimal_pairs †" in text for text in page.said("th"))
    assert any("NOT MATCHED by budget" in head and "%" in head for head in page.said("caption"))


def test_of_many_arms_the_table_has_only_keys_of_several_values(tmp_path):
    masked = [f"model=bert objective.mask_rate={rate}" for rate in (0.15, 0.2, 0.3)]
    masked.append("model=bert model.local_window=64")
    for number, said in enumerate(["model=gpt", "model=gpt_2018", "model=elmo", *masked]):
        make_run(tmp_path / "runs" / str(number), *said.split())
    compare(f"{tmp_path}/runs/*", tmp_path / "to")
    page = Page((tmp_path / "to" / "report.html").read_text(encoding="utf-8"))
    columns = page.said("th")
    assert "objective.mask_rate" in columns
    assert "model.local_window" in columns  # there and empty in the others
    assert "model.cell_size" not in columns
    (told,) = [text for text in page.said("p") if text.startswith("The same wherever there is such a key")]
    assert "model.cell_size 86 (elmo)" in told
    assert "objective.mask_share 0.8 (4 of 7 arms)" in told


def test_figures_of_an_earlier_report_do_not_stay(tmp_path):
    folder = make_run(tmp_path / "a")
    add_pairs(folder, 0.7)
    compare(folder, tmp_path / "to")
    assert (tmp_path / "to" / "phenomena.svg").exists()
    (folder / "evaluations" / "minimal_pairs.json").unlink()
    compare(folder, tmp_path / "to")
    assert not (tmp_path / "to" / "phenomena.svg").exists()


@pytest.mark.slow
def test_a_hundred_runs_with_all_of_blimp_take_less_than_half_a_minute(tmp_path):
    """Ten arms of ten seeds, 67,000 pairs, 2,000 blocks and a task each, on one core."""
    import shutil
    import time
    from itertools import product

    models = {"0": [], "1": ["optimizer.lr=1e-3"]} | {str(n): [f"optimizer.lr={n}e-3"] for n in range(4, 12)}
    first: Path | None = None
    for (arm, overrides), seed in product(models.items(), range(1, 11)):
        folder = make_run(tmp_path / "runs" / f"{arm}-{seed}", "model=gpt", *overrides, seed=seed)
        if seed == 1:  # the files of one seed serve all seeds of an arm: they are read all the same
            first = folder
            add_pairs(folder, 0.5 + 0.01 * int(arm), items=22_334)
            add_bits(folder, 1.7 + 0.01 * int(arm), blocks=2000)
            add_task(folder, "tagging", 0.7 + 0.01 * int(arm), count=2000, seeds=1)
        else:
            assert first is not None
            for part in ("evaluations", "finetune"):
                shutil.copytree(first / part, folder / part)
    began = time.perf_counter()
    results = compare(f"{tmp_path}/runs/*", tmp_path / "to")
    assert time.perf_counter() - began < 30
    assert len(results["runs"]) == 100
    assert [len(cell["rows"]) for cell in results["cells"]] == [10, 10, 10, 10]


# ---------------------------------------------------------------------------------- the command


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = 0
    try:
        command.main(list(argv))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_writes_and_says_what_came_out(tmp_path, capsys):
    three_families(tmp_path / "runs")
    (tmp_path / "runs" / "no-run").mkdir()
    status, out, err = run(capsys, f"runs={tmp_path}/runs/*-*", f"to={tmp_path}/to")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "9 runs of 3 arms: bert, elmo, gpt"
    assert lines[1].endswith("names: 1 folder without a run")
    assert any(line.startswith("  ▲\u00a0better  minimal_pairs: elmo against bert +") for line in lines)
    assert lines[-1] == f"report  {tmp_path}/to/report.html"


def test_several_runs_are_given_as_a_list(tmp_path, capsys):
    one, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=2)
    status, out, _ = run(capsys, f"runs=[{one},{other}]", f"to={tmp_path}/to", "seed=3")
    assert status == 0
    assert json.loads((tmp_path / "to" / "results.json").read_text())["seed"] == 3
    assert out.startswith("2 runs of 1 arm: bert mlm\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["to={}/to"], "compare needs runs="),
        (["runs={}/a"], "compare needs to="),
        (["runs={}/nothing", "to={}/to"], "there is no such folder"),
        (["runs={}/a", "to={}/file"], "file is a file; give a folder"),
        (["runs={}/a", "to={}/file/below"], "file is a file; give a folder"),
        (["runs={}/a", "to={}/to", "unfinished=maybe"], "wrong type"),
        (["runs={}/a", "to={}/to", "wandb.reports=true"], "wandb.reports: there is no such key"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path, capsys, argv, message):
    make_run(tmp_path / "a")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(capsys, *(each.format(tmp_path) for each in argv))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_without_matplotlib_there_is_a_report_that_says_what_to_install(tmp_path, capsys, monkeypatch):
    """A sweep of hours must not end without its report for want of pictures."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    add_pairs(make_run(tmp_path / "a"), 0.7)
    status, _, err = run(capsys, f"runs={tmp_path}/a", f"to={tmp_path}/to")
    assert status == 0
    assert err == "no figures, as matplotlib is not installed: pip install 'lmzoo[report]'\n"
    assert {path.name for path in (tmp_path / "to").iterdir()} == set(FILES)
    page = Page((tmp_path / "to" / "report.html").read_text(encoding="utf-8"))
    assert "pip install 'lmzoo[report]'" in page.said("p")[0]
    assert not page.said("figcaption")


def test_help_lists_the_keys(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for key in ("runs", "to", "unfinished", "seed", "wandb.report"):
        assert re.search(rf"^  {re.escape(key)} ", out, re.M)


# ---------------------------------------------------------------------------------- W&B


def test_without_a_login_the_w_and_b_report_is_written_and_the_way_told(tmp_path, capsys):
    make_run(tmp_path / "a", "model=gpt")
    add_pairs(tmp_path / "a", 0.7)
    status, out, _ = run(capsys, f"runs={tmp_path}/a", f"to={tmp_path}/to", "wandb.report=true")
    assert status == 0
    assert f"the report is in {tmp_path}/to/wandb_report.json" in out
    assert f"wandb login && lmzoo compare runs={tmp_path}/a to={tmp_path}/to wandb.report=true" in out
    spec = json.loads((tmp_path / "to" / "wandb_report.json").read_text())
    assert spec["project"] == "lmzoo"
    kinds = [block["kind"] for block in spec["blocks"]]
    assert kinds == ["markdown", "panels"]
    assert "minimal" in spec["blocks"][0]["text"]
    assert "![" not in spec["blocks"][0]["text"]
    panels = spec["blocks"][1]["panels"]
    assert {panel["kind"] for panel in panels} == {"line", "bar", "scatter", "comparer"}
    assert panels[0] == {
        "kind": "line",
        "title": "clm loss",
        "x": "train/tokens_seen",
        "y": ["train/clm_loss", "valid/clm_loss"],
    }


def test_the_w_and_b_report_draws_what_runs_have_logged(tmp_path):
    folder = make_run(tmp_path / "a", "model=bert", "objective=hybrid")
    add_pairs(folder, 0.6, told="full")
    add_pairs(folder, 0.7, reading="past")
    results = compare(folder, tmp_path / "to", wandb_report=True)
    readings = {each["name"]: each["reading"] for each in results["cells"] if each["section"] == "yardstick"}
    assert readings == {"minimal_pairs": None, "minimal_pairs (read as past)": "past"}
    spec = json.loads((tmp_path / "to" / "wandb_report.json").read_text())
    panels = spec["blocks"][1]["panels"]
    assert [panel["metrics"] for panel in panels if panel["kind"] == "bar"] == [["evaluation/minimal_pairs"]]
    assert {p["y"] for p in panels if p["kind"] == "scatter"} == {"evaluation/minimal_pairs"}


def test_the_w_and_b_report_is_over_the_groups_of_the_runs(tmp_path):
    for number in (1, 2):
        make_run(
            tmp_path / f"a{number}",
            "logger=wandb",
            "logger.group=sweep one",
            "logger.project=mine",
            seed=number,
        )
    compare(f"{tmp_path}/*", tmp_path / "to", wandb_report=True)
    spec = json.loads((tmp_path / "to" / "wandb_report.json").read_text())
    assert spec["project"] == "mine"
    assert spec["blocks"][1]["groups"] == ["sweep one"]


def test_the_w_and_b_report_is_built_without_a_server(tmp_path):
    pytest.importorskip("wandb_workspaces")
    from lmzoo.analysis.wandb_report import build

    made = three_families(tmp_path / "runs", seeds=(1,))
    compare(made, tmp_path / "to", wandb_report=True)
    report = build(json.loads((tmp_path / "to" / "wandb_report.json").read_text()))
    assert report.title.startswith("Comparison: elmo, gpt, bert")
    assert len(report.blocks) >= 2


def test_without_its_package_the_w_and_b_report_says_what_to_install(monkeypatch):
    from lmzoo.analysis.wandb_report import publish

    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(LmzooError, match=r"lmzoo\[report\]"):
        publish({})
