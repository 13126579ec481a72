"""The attention page in a headless browser: what a reader sees, and can do with mouse and keyboard."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from attention_views import CAT, CLOSE, NASTY, attends, gated, weights
from lmzoo.analysis.attention_page import write_page

ROW = 24
"""Height of a token beside the lines, in CSS pixels."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of the distribution."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page with these views; in the end nothing but the file was asked for, nothing went wrong."""
    contexts, asked, wrong, files = [], [], [], []

    def open_page(views, *, width=1300, height=900, scheme="light"):
        files.append(tmp_path / f"page{len(files)}.html")
        write_page(files[-1], views)
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route(re.compile("^(?!file:)"), lambda route: route.abort())
        page.goto(files[-1].as_uri())
        page.wait_for_selector("main:not([aria-busy])")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert asked == [path.as_uri() for path in files]
    assert wrong == []


def chosen(page, view=0) -> tuple[str, ...]:
    """Stream, layer, head and mode of a view, as its element, its lists and its overview say alike."""
    section = page.locator(".view").nth(view)
    said = section.evaluate("e => ({...e.dataset})")
    lists = [section.locator(f"select[name={name}]").evaluate("e => e.value") for name in ("layer", "head")]
    assert [int(value) + 1 for value in lists] == [int(said["layer"]), int(said["head"])]
    marked = section.locator(".grid button[aria-checked=true]")
    assert marked.get_attribute("aria-label") == f"layer {said['layer']}, head {said['head']}"
    assert section.locator("[aria-pressed=true]").inner_text() == said["mode"]
    assert section.locator(".lines").is_visible() == (said["mode"] == "lines")
    assert section.locator(".matrix").is_visible() == (said["mode"] == "matrix")
    return said["stream"], said["layer"], said["head"], said["mode"]


def beside(page, column: str, view=0) -> list[float]:
    """The weights that stand beside the tokens of a column."""
    texts = page.locator(".view").nth(view).locator(f".{column} .weight").all_text_contents()
    return [float(text) for text in texts if text]


def row(page, column: str, place: int, view=0):
    return page.locator(".view").nth(view).locator(f".{column} .row").nth(place)


def cell_at(page, query: int, key: int, view=0) -> dict[str, float]:
    """The middle of a cell of the matrix, as a place inside its board."""
    box = page.locator(".view").nth(view).locator(".cells canvas").bounding_box()
    side = page.locator(".view").nth(view).locator(".queries .row").count()
    return {"x": box["width"] / side * (key + 0.5), "y": box["height"] / side * (query + 0.5)}


def test_layers_and_heads_are_chosen_and_their_weights_are_the_given_ones(opened):
    view = attends()
    given = view["streams"][0]["attention"]
    page = opened([view])
    assert chosen(page) == ("", "1", "1", "lines")
    assert page.locator(".grid button").count() == 12
    page.click(".grid button[data-layer='2'][data-head='3']")
    assert chosen(page) == ("", "2", "3", "lines")
    row(page, "queries", 2).hover()
    assert beside(page, "keys") == pytest.approx(given[1, 2, 2], abs=CLOSE)
    assert beside(page, "queries") == []
    row(page, "keys", 5).hover()
    assert beside(page, "queries") == pytest.approx(given[1, 2, :, 5], abs=CLOSE)
    assert beside(page, "keys") == []
    page.select_option("select[name=layer]", label="3")
    page.select_option("select[name=head]", label="4")
    assert chosen(page) == ("", "3", "4", "lines")
    row(page, "queries", 0).hover()
    assert beside(page, "keys") == pytest.approx(given[2, 3, 0], abs=CLOSE)
    best = int(given[2, 3, 0].argmax())
    assert f"({best}) {given[2, 3, 0, best]:.4f}" in page.inner_text(".readout").split(",")[0]

    page.click("[data-mode=matrix]")
    assert chosen(page) == ("", "3", "4", "matrix")
    for query, key in [(0, 0), (7, 1), (3, 6)]:
        page.hover(".cells", position=cell_at(page, query, key))
        told = page.inner_text(".tip")
        assert f"({query}) attends to" in told
        assert told.endswith(f"({key}): {given[2, 3, query, key]:.4f}")
        assert page.inner_text(".readout") == told


def test_opacity_and_colour_are_the_weight(opened):
    shares = np.zeros((1, 1, 3, 3))
    shares[0, 0] = [[0.6, 0.3, 0.1], [0, 1, 0], [0.25, 0.25, 0.5]]
    page = opened([attends(["a", "b", "c"], **{"": shares})])

    def opacities(edge: int) -> list[float]:
        """Of the lines at each row, at the left edge (0) or the right one (-1)."""
        return page.evaluate(
            """async ([row, edge]) => {
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
            const c = document.querySelector('.lines canvas:not([hidden])');
            const density = c.height / (3 * row);
            const copy = new OffscreenCanvas(1, c.height).getContext('2d');
            copy.drawImage(c, edge < 0 ? 1 - c.width : 0, 0);
            const { data } = copy.getImageData(0, 0, 1, c.height);
            return [0, 1, 2].map(k => data[4 * Math.floor((k + .5) * row * density) + 3] / 255) }""",
            [ROW, edge],
        )

    row(page, "queries", 0).hover()
    assert opacities(-1) == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    row(page, "keys", 0).hover()
    assert opacities(0) == pytest.approx([0.6, 0, 0.25], abs=0.02)
    page.mouse.move(1, 1)
    assert opacities(-1)[1] > 0.98

    page.click("[data-mode=matrix]")
    colours = page.evaluate(
        """() => { const c = document.querySelector('.cells canvas');
        const { data } = c.getContext('2d').getImageData(0, 0, 3, 3);
        return [0, 1, 2, 3, 4].map(cell => [...data.slice(4 * cell, 4 * cell + 3)]) }"""
    )
    light = [sum(colour) for colour in colours]
    assert light[0] < light[1] < light[2] < light[3]
    assert colours[3] == [255, 255, 255]
    assert light[4] == min(light)
    page.select_option("#scale", "largest")
    assert page.locator(".legend").first.inner_text().split() == ["weight", "0", "1"]


def test_full_colour_at_the_largest_weight_of_the_head(opened):
    shares = np.full((1, 2, 4, 4), 0.25)
    shares[0, 1] = np.eye(4)
    page = opened([attends(["a", "b", "c", "d"], **{"": shares})])
    dark = """() => [...document.querySelectorAll('.grid canvas')].map(c =>
        c.getContext('2d').getImageData(0, 0, 1, 1).data[0])"""
    uniform, diagonal = page.evaluate(dark)
    assert uniform > diagonal + 50
    page.select_option("#scale", "largest")
    assert len(set(page.evaluate(dark))) == 1
    assert page.locator(".legend").first.inner_text().split() == ["weight", "0", "0.25"]


def test_the_keyboard_alone_does_it_all(opened):
    view = attends()
    given = view["streams"][0]["attention"]
    page = opened([view])
    page.focus(".grid [aria-checked=true]")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert chosen(page) == ("", "3", "2", "lines")
    assert page.evaluate("document.activeElement.ariaLabel") == "layer 3, head 2"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    assert chosen(page) == ("", "2", "1", "lines")

    page.focus("select[name=head]")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "row chosen"
    page.keyboard.press("ArrowDown")
    assert beside(page, "keys") == pytest.approx(given[1, 0, 1], abs=CLOSE)
    page.keyboard.press("ArrowRight")
    assert beside(page, "queries") == pytest.approx(given[1, 0, :, 1], abs=CLOSE)
    page.keyboard.press("Shift+ArrowRight")
    assert beside(page, "queries") == pytest.approx(given[1, 1, :, 1], abs=CLOSE)
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")
    assert beside(page, "queries") == pytest.approx(given[1, 0, :, 1], abs=CLOSE)
    page.keyboard.press("Shift+ArrowDown")
    assert beside(page, "queries") == pytest.approx(given[2, 0, :, 1], abs=CLOSE)
    page.keyboard.press("Escape")
    assert beside(page, "queries") == []

    page.focus("[data-mode=matrix]")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text(".readout").endswith(f"(1): {given[2, 0, 1, 1]:.4f}")


def test_two_views_linked_and_apart(opened):
    left, right = attends(), attends(seed=1, layers=2, heads=6, title="Another model")
    page = opened([left, right])
    page.locator(".view").nth(0).locator("button[data-layer='2'][data-head='2']").click()
    assert [chosen(page, 0)[1:3], chosen(page, 1)[1:3]] == [("2", "2"), ("1", "1")]
    page.check("#link")
    assert chosen(page, 1)[1:3] == ("2", "2")
    page.locator(".view").nth(0).locator("[data-mode=matrix]").click()
    assert chosen(page, 1)[3] == "matrix"
    page.locator(".view").nth(0).locator("[data-mode=lines]").click()
    row(page, "queries", 3, view=0).hover()
    assert beside(page, "keys", 1) == pytest.approx(right["streams"][0]["attention"][1, 1, 3], abs=CLOSE)
    page.locator(".view").nth(0).locator("button[data-layer='3'][data-head='4']").click()
    assert [chosen(page, 0)[1:3], chosen(page, 1)[1:3]] == [("3", "4"), ("2", "4")]
    page.locator(".view").nth(1).locator("button[data-layer='1'][data-head='6']").click()
    assert [chosen(page, 0)[1:3], chosen(page, 1)[1:3]] == [("1", "4"), ("1", "6")]
    page.uncheck("#link")
    page.locator(".view").nth(1).locator("button[data-layer='2'][data-head='1']").click()
    assert chosen(page, 0)[1:3] == ("1", "4")


def test_a_link_between_other_texts_keeps_the_tokens_apart(opened):
    page = opened([attends(), attends(["a", "b", "c"], title="Another text")])
    page.check("#link")
    row(page, "queries", 1, view=1).click()
    kept = beside(page, "keys", 1)
    row(page, "queries", 6, view=0).hover()
    assert len(beside(page, "keys", 0)) == len(CAT)
    assert beside(page, "keys", 1) == kept != []


def test_two_streams_are_chosen_by_name(opened):
    past = weights(2, 2, len(CAT), causal=True)
    future = past[:, :, ::-1, ::-1]
    page = opened([attends(past=past, future=future)])
    assert chosen(page)[0] == "past"
    row(page, "queries", 2).hover()
    assert beside(page, "keys") == pytest.approx(past[0, 0, 2], abs=CLOSE)
    assert beside(page, "keys")[3:] == [0] * 5
    page.select_option("select[name=stream]", label="future (right to left)")
    assert chosen(page)[0] == "future"
    row(page, "queries", 2).hover()
    assert beside(page, "keys") == pytest.approx(future[0, 0, 2], abs=CLOSE)
    assert beside(page, "keys")[:2] == [0] * 2


def test_elmo_shows_its_mix_norms_and_gates(opened):
    view, other = gated(), gated(seed=1, title="Another")
    page = opened([view, other])
    section = page.locator(".view").nth(0)
    assert [float(text) for text in section.locator(".mix .value").all_inner_texts()] == view["mix"]
    widths = section.locator(".mix .bar i").evaluate_all("l => l.map(e => e.getBoundingClientRect().width)")
    assert widths[1] / widths[0] == pytest.approx(2.5, rel=0.05)

    def column(group: str, layer: str) -> list[float]:
        return [float(text) for text in section.locator(f"td[data-of='{group}, {layer}']").all_inner_texts()]

    names = ["embedding", "layer 1", "layer 2"]
    for number, name in enumerate(names):
        assert column("norm", name) == pytest.approx(view["norms"][number], rel=0.006)
    for direction, said in enumerate(["past (left to right)", "future (right to left)"]):
        section.locator("select[name=direction]").select_option(label=said)
        for gate, group in enumerate(["input gate", "forget gate", "output gate"]):
            for layer in (0, 1):
                values = view["gates"][direction]["values"][layer, :, gate]
                assert column(group, f"layer {layer + 1}") == pytest.approx(values, abs=0.0006)
        assert column("input gate", "embedding") == []
    section.locator("select[name=layer]").select_option(label="layer 2")
    assert column("forget gate", "layer 1") == column("norm", "embedding") == []
    assert len(column("forget gate", "layer 2")) == len(CAT)

    assert page.locator(".view").nth(1).get_attribute("data-layer") == "all"
    page.check("#link")
    assert page.locator(".view").nth(1).get_attribute("data-layer") == "3"
    assert page.locator(".view").nth(1).get_attribute("data-direction") == "future"
    page.keyboard.press("Shift+ArrowLeft")
    assert page.locator(".view").nth(1).get_attribute("data-direction") == "past"


def test_tokens_show_what_has_no_shape(opened):
    tokens = [
        "[CLS]",
        " cat",
        "\n",
        "\t",
        "a  b",
        "",
        "\u200b",
        "\u202ex",
        "👩‍👧",
        "ab\ud83d",
        "[SEP]",
        NASTY,
    ]
    page = opened([attends(tokens, title=NASTY)])
    shown = page.locator(".queries .token").all_text_contents()
    assert shown[:8] == ["[CLS]", "·cat", "↵", "⇥", "a··b", "empty", "U+200B", "U+202Ex"]
    assert shown[8:11] == ["👩‍👧", "abU+D83D", "[SEP]"]
    assert shown[11].startswith("</script><script>window.broken·=·1</script><!--")
    special = page.locator(".queries .token.special").all_text_contents()
    assert special == ["[CLS]", "[SEP]"]
    assert page.evaluate("window.broken") is None
    assert page.locator("script").count() == 2
    assert page.title().startswith("</script>")


@pytest.mark.parametrize("length", [2, 200])
@pytest.mark.parametrize("width", [360, 1300])
def test_nothing_overlaps_or_spills_at_any_length_and_width(opened, length, width):
    tokens = [f" token{'s' * (place % 40)}" for place in range(length)]
    view = attends(tokens, layers=12, heads=12) if length == 2 else attends(tokens, layers=2, heads=12)
    page = opened([view, gated(tokens)], width=width)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    row(page, "queries", 1).hover()
    spilt = """() => [...document.querySelectorAll('.lines .row')].filter(row => {
        const box = row.getBoundingClientRect();
        return row.scrollWidth > row.clientWidth || [...row.children].some(part => {
          const own = part.getBoundingClientRect();
          return own.width && (own.left < box.left - 1 || own.right > box.right + 1); }) }).length"""
    assert page.evaluate(spilt) == 0
    for column in ("queries", "keys"):
        tops = page.locator(f".{column} .row").evaluate_all("l => l.map(e => e.getBoundingClientRect().top)")
        assert np.diff(tops) == pytest.approx([ROW] * (length - 1))
    page.click("[data-mode=matrix]")
    apart = """side => { const labels = [...document.querySelectorAll(`.matrix ${side} .label`)];
        const place = label => label.getBoundingClientRect()[side === '.down' ? 'top' : 'left'];
        return labels.slice(1).map((label, n) => place(label) - place(labels[n])) }"""
    for side in (".down", ".across"):
        assert min(page.evaluate(apart, side)) >= 16
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_dark_where_the_reader_wants_dark(opened):
    page = opened([attends(), gated()], scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    corner = """() => { const c = document.querySelector('.grid canvas');
        return [...c.getContext('2d').getImageData(1, 0, 1, 1).data].slice(0, 3) }"""
    assert max(page.evaluate(ground)) < 40
    dark = page.evaluate(corner)
    page.emulate_media(color_scheme="light")
    assert min(page.evaluate(ground)) > 220
    page.wait_for_function(f"({corner})().join() !== '{','.join(map(str, dark))}'")
