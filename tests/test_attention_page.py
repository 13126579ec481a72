"""The attention page as a file: what is in it, what is refused, and how it is written."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from attention_views import CAT, CLOSE, NASTY, attends, gated
from lmzoo.analysis.attention_page import PRECISION, TOKEN_LIMIT, write_page
from lmzoo.errors import LmzooError

ROOT = Path(__file__).resolve().parents[1]


def content(page: Path) -> dict:
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.read_text())
    return json.loads(found)


def test_the_file_holds_the_weights(tmp_path):
    view = attends(layers=2, heads=3)
    write_page(tmp_path / "page.html", [view])
    (shown,) = content(tmp_path / "page.html")["views"]
    assert shown["tokens"] == CAT
    assert shown["special"] == [0, 7]
    (stream,) = shown["streams"]
    for packed, given in zip(stream["weights"], view["streams"][0]["attention"], strict=True):
        halves = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(2, 3, 8, 8)
        np.testing.assert_allclose((halves[0] + 256.0 * halves[1]) / PRECISION, given, atol=CLOSE)


def test_it_asks_for_nothing_from_elsewhere(tmp_path):
    write_page(tmp_path / "page.html", [attends(), gated()])
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(
        r"https?:|//[a-z0-9-]+\.[a-z]|\b(src|href|action)\s*=|url\(|@import|import\s*\(", text
    )
    assert "default-src 'none'" in text


def test_the_same_views_give_the_same_bytes(tmp_path):
    write_page(tmp_path / "a.html", [attends(), gated()])
    as_lists = attends()
    as_lists["streams"][0]["attention"] = as_lists["streams"][0]["attention"].tolist()
    write_page(tmp_path / "deep" / "b.html", [as_lists, gated()])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "deep" / "b.html").read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["b.html"]


def test_twelve_layers_of_twelve_heads_stay_small(tmp_path):
    tokens = [f" {number}" for number in range(128)]
    write_page(tmp_path / "page.html", [attends(tokens, layers=12, heads=12)])
    assert (tmp_path / "page.html").stat().st_size < 5e6


def test_no_text_breaks_out_of_its_place(tmp_path):
    def markup(page: Path) -> list[str]:
        return re.findall(r"<!--|</?script", page.read_text(encoding="utf-8"), re.IGNORECASE)

    write_page(tmp_path / "plain.html", [attends()])
    write_page(tmp_path / "nasty.html", [attends([NASTY, "{{script}}"], title=NASTY) | {"model": NASTY}])
    assert markup(tmp_path / "nasty.html") == markup(tmp_path / "plain.html")
    (shown,) = content(tmp_path / "nasty.html")["views"]
    assert shown["tokens"] == [NASTY, "{{script}}"]
    assert shown["title"] == shown["model"] == NASTY


def test_special_tokens_by_their_spelling_or_as_given(tmp_path):
    tokens = ["<s>", "[MASK]", "<|endoftext|>", "[unused7]", "[mask", "<b>", "s", "[1]"]
    write_page(tmp_path / "page.html", [attends(tokens), attends(["a", "b"]) | {"special": [False, True]}])
    first, second = content(tmp_path / "page.html")["views"]
    assert first["special"] == [0, 1, 2, 3]
    assert second["special"] == [1]


def _not_a_number() -> dict:
    view = attends()
    view["streams"][0]["attention"][1, 2, 3, 4] = np.nan
    return view


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "one text or two, not 0"),
        ([attends()] * 3, "one text or two, not 3"),
        ([attends([])], "A cat has no token to show"),
        ([gated(["a"] * (TOKEN_LIMIT + 1))], f"513 tokens, and a page shows {TOKEN_LIMIT} at most"),
        ([_not_a_number()], "the attention of A cat has numbers that are not finite"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, views, message):
    with pytest.raises(LmzooError, match=re.escape(message)) as error:
        write_page(tmp_path / "page.html", views)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(LmzooError, match=r"file/page.html cannot be written .*; give another file"):
        write_page(tmp_path / "file" / "page.html", [attends()])
    with pytest.raises(LmzooError, match="is a folder; give a file in it"):
        write_page(tmp_path, [attends()])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_leaves_the_old_page(tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    write_page(page, [attends()])
    before = page.read_bytes()
    write = Path.write_text

    def full(path, text, **options):
        write(path, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LmzooError, match="No space left on device"):
        write_page(page, [attends(seed=1)])
    assert page.read_bytes() == before
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize("wrong", ["attention", "weights", "gates", "norms"])
def test_arrays_of_a_wrong_shape_are_a_bug_and_say_so(tmp_path, wrong):
    transformer, elmo = attends(), gated()
    if wrong == "attention":
        transformer["streams"][0]["heads"] = 5
    elif wrong == "weights":
        transformer["streams"][0]["attention"][0, 0, 0, 0] = 1.5
    elif wrong == "gates":
        elmo["gates"][1]["values"] = elmo["gates"][1]["values"][:, :-1]
    else:
        elmo["norms"] = elmo["norms"][:-1]
    with pytest.raises(ValueError, match="A cat"):
        write_page(tmp_path / "page.html", [transformer, elmo])


def test_the_wheel_holds_every_part_of_the_page():
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    parts = {f"lmzoo/analysis/{path.name}" for path in (ROOT / "src/lmzoo/analysis").glob("*.*")}
    assert {"lmzoo/analysis/attention_page.html", "lmzoo/analysis/attention_page.js"} <= parts
    assert parts <= packed
