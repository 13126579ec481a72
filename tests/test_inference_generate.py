"""Going on with a text: with and without the cache, alone and in batches, greedy, drawn and searched."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from builders import MODELS, batch_of
from inference_models import TEXTS, language_model
from lmzoo import rng
from lmzoo.errors import LmzooError
from lmzoo.inference.beams import BeamSearch
from lmzoo.inference.decoding import distribution, draw
from lmzoo.inference.generate import Plan
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
from lmzoo.types import Context

CAUSAL = [name for name, config in MODELS.items() if Context.PAST in config.contexts]


def next_log_probabilities(model, row: list[int]) -> torch.Tensor:
    """(V,) after one unpadded row."""
    with torch.no_grad():
        states = model.engine.backbone(batch_of([[row]], len(row))).states[0, -1]
        return model.engine.objective.head.logits(states[None])[0].log_softmax(-1)


@pytest.mark.parametrize("family", CAUSAL)
def test_greedy_takes_the_likeliest_token_each_time(family, tokenizer):
    model = language_model(family, "clm", tokenizer, sharpness=2.0)
    special = tokenizer.special
    for prompt in TEXTS:
        row = [special.cls, *tokenizer.encode_batch([prompt])[0]]
        expected, score = [], 0.0
        while len(expected) < 8 and special.sep not in expected:
            chances = next_log_probabilities(model, row + expected)
            expected.append(int(chances.argmax()))
            score += float(chances.max())
        found = model.generate(prompt, 8)
        assert found.ids == [token for token in expected if token != special.sep]
        assert found.score == pytest.approx(score, rel=1e-3)
        assert found.finish == ("end" if special.sep in expected else "length")
        assert found.prompt == prompt


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 3}, {"num_beams": 3, "length_penalty": 0.5}],
    ids=["greedy", "drawn", "beams"],
)
def test_the_cache_and_the_batch_change_nothing(family, how, tokenizer):
    model = language_model(family, "clm", tokenizer, sharpness=2.0)
    cached = model.generate(TEXTS, 12, **how)
    plain = model.generate(TEXTS, 12, use_cache=False, **how)
    small = model.generate(TEXTS, 12, batch_size=2, **how)
    assert [each.prompt for each in cached] == TEXTS
    for others in (plain, small):
        assert [each.ids for each in others] == [each.ids for each in cached]
        assert [each.text for each in others] == [each.text for each in cached]
        assert [each.score for each in others] == pytest.approx([e.score for e in cached], rel=1e-3)
    if "seed" not in how:  # a drawn text depends on the prompt's number
        alone = [model.generate(prompt, 12, **how) for prompt in TEXTS]
        assert [each.ids for each in alone] == [each.ids for each in cached]


def test_the_text_is_what_follows_the_prompt(tokenizer):
    model = language_model("gpt", "clm", tokenizer, sharpness=2.0)
    for found in model.generate(TEXTS, 10):
        whole = tokenizer.decode([*tokenizer.encode_batch([found.prompt])[0], *found.ids])
        assert found.prompt + found.text == whole


def make_say(model, text: str, monkeypatch) -> list[int]:
    """Let the model go on with this text and then end, whatever it reads; gives the ids."""
    ids = model.engine.tokenizer.encode_batch([text])[0]
    step = itertools.count()

    def logits(states):
        made = torch.zeros(len(states), model.engine.special.vocab_size)
        made[:, [*ids, model.engine.special.sep][next(step)]] = 20.0
        return made

    monkeypatch.setattr(model.engine.objective.head, "logits", logits)
    return ids


@pytest.mark.parametrize("how", [{}, {"temperature": 0.1}, {"num_beams": 3, "length_penalty": 0.0}])
def test_the_end_of_a_text_ends_it(how, tokenizer, monkeypatch):
    model = language_model("gpt", "clm", tokenizer)
    ids = make_say(model, " sat on the mat.", monkeypatch)
    found = model.generate("The cat", len(ids) + 1, **how)
    assert (found.text, found.ids, found.finish) == (" sat on the mat.", ids, "end")
    chance = math.log(math.exp(20) / (math.exp(20) + tokenizer.vocab_size - 1))
    assert found.score == pytest.approx((len(ids) + 1) * chance, abs=1e-5)
    make_say(model, " sat on the mat.", monkeypatch)
    cut = model.generate("The cat", len(ids), **how)
    assert (cut.text, cut.ids, cut.finish) == (" sat on the mat.", ids, "length")


@pytest.mark.parametrize("how", [{}, {"num_beams": 3}])
@pytest.mark.parametrize(
    ("stop", "text"),
    [(["on"], " sat "), (["mat", "t o"], " sa"), (["t", "a"], " s"), ([" sat"], ""), (["cat", "Thee"], None)],
)
def test_stop_strings_cut_the_text_before_them(stop, text, how, tokenizer, monkeypatch):
    model = language_model("gpt", "clm", tokenizer)
    ids = make_say(model, " sat on the mat.", monkeypatch)
    found = model.generate("The cat", len(ids) + 1, stop=stop, **how)
    if text is None:  # they stand in the prompt alone, or across its end
        assert (found.text, found.finish) == (" sat on the mat.", "end")
    elif not how:
        assert (found.text, found.finish) == (text, "stop")
        assert found.ids == ids[: len(found.ids)]
        assert not any(s in tokenizer.decode(found.ids[:-1]) for s in stop)
    else:
        assert found.text.startswith(text)
        assert not any(s in found.text for s in stop)


def test_words_that_follow_keep_their_blank(monkeypatch):
    text = "The cat sat on the mat, and the dog sat on the cat." * 20
    pieces = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=30, lowercase=True), [text])
    model = language_model("gpt", "clm", pieces)
    make_say(model, "sat on the mat", monkeypatch)
    found = model.generate("the cat", 40)
    assert (found.prompt, found.text, found.finish) == ("the cat", " sat on the mat", "end")


# ---------------------------------------------------------------------------------- drawing


def test_a_seed_decides_what_is_drawn(tokenizer):
    model = language_model("gpt", "clm", tokenizer)
    first, again, other = (model.generate(["a"] * 4, 8, temperature=1.0, seed=s) for s in (1, 1, 2))
    assert [each.ids for each in first] == [each.ids for each in again]
    assert [each.ids for each in first] != [each.ids for each in other]
    assert len({tuple(each.ids) for each in first}) == 4  # the same prompt, drawn four times
    assert first[0].score == pytest.approx(model.generate("a", 8, temperature=1.0, seed=1).score, rel=1e-4)


LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
        ({"top_k": 2}, [0.5, 0.3, 0, 0]),
        ({"top_k": 9}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.8}, [0.5, 0.3, 0, 0]),
        ({"top_p": 0.81}, [0.5, 0.3, 0.15, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_k": 3, "top_p": 0.6}, [0.5, 0.3, 0, 0]),  # 0.5 / 0.95 is less than 0.6
    ],
)
def test_what_is_drawn_from(how, expected):
    wanted = torch.tensor([expected], dtype=torch.float64)
    torch.testing.assert_close(distribution(LOGITS, **how), wanted / wanted.sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.9}])
def test_draws_follow_the_distribution(how):
    chances = distribution(LOGITS, **how)
    count = 20_000
    drawn = draw(chances.expand(count, -1), 7, range(count), 0)
    shares = torch.bincount(drawn, minlength=4) / count
    torch.testing.assert_close(shares.double(), chances[0], rtol=0, atol=0.015)
    assert set(drawn.tolist()) == set(chances[0].nonzero().flatten().tolist())


def test_half_of_two_equals_is_one():
    chances = distribution(torch.zeros(1, 2), top_p=0.5)
    assert chances.tolist() == [[1, 0]]


def test_the_lowest_draw_takes_no_token_without_probability(monkeypatch):
    monkeypatch.setattr(rng, "uniform", lambda key, rows, steps: torch.zeros(len(rows), dtype=torch.float64))
    assert draw(torch.tensor([[0.0, 0.0, 0.4, 0.6]], dtype=torch.float64), 1, [0], 0).tolist() == [2]


def test_ties_with_the_last_of_the_top_k_stay():
    chances = distribution(torch.tensor([[1.0, 0.0, 0.0, -1.0]]), top_k=2)
    assert (chances > 0).tolist() == [[True, True, True, False]]


# ---------------------------------------------------------------------------------- beams


class Table:
    """A language model of four tokens, of which 3 ends a text: gives (4,) log-probabilities."""

    size, end = 4, 3

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, tokens: tuple[int, ...]) -> torch.Tensor:
        number = int("1" + "".join(map(str, tokens)) or 1) * 31 + self.seed
        drawn = torch.randn(self.size, generator=torch.Generator().manual_seed(number))
        return (2 * drawn).log_softmax(-1)

    def texts(self, longest: int) -> dict[tuple[int, ...], float]:
        """Every text that ends, or is as long as can be, with its log-probability."""
        found: dict[tuple[int, ...], float] = {}
        waiting = [((), 0.0)]
        while waiting:
            tokens, score = waiting.pop()
            for token, gain in enumerate(self(tokens).tolist()):
                grown = (*tokens, token)
                if token == self.end or len(grown) == longest:
                    found[grown] = score + gain
                else:
                    waiting.append((grown, score + gain))
        return found


def searched(table: Table, num_beams: int, penalty: float, longest: int, stops=lambda tokens: False):
    search = BeamSearch(num_beams, penalty, longest, table.end, stops)
    while not search.is_over:
        search.step(torch.stack([table(beam.tokens) for beam in search.running]))
    return search.finished[0]


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_enough_beams_find_the_best_of_all_texts(seed, penalty):
    table, longest = Table(seed), 4
    texts = {t: score / len(t) ** penalty for t, score in table.texts(longest).items()}
    best = max(texts, key=texts.get)
    found = searched(table, len(texts), penalty, longest)
    assert found.tokens == best
    assert found.score == pytest.approx(texts[best], rel=1e-4)


def test_one_beam_is_greedy_until_it_ends():
    for seed in range(20):
        table, tokens = Table(seed), ()
        while len(tokens) < 5 and table.end not in tokens:
            tokens = (*tokens, int(table(tokens).argmax()))
        if table.end not in tokens:  # a search of one beam goes on beside a text that has ended
            assert searched(table, 1, 1.0, 5).tokens == tokens


def test_more_beams_are_worth_it():
    penalties = (0.0, 1.0)
    scores = {
        (beams, penalty): [searched(Table(seed), beams, penalty, 6).score for seed in range(30)]
        for beams, penalty in itertools.product((1, 4), penalties)
    }
    for penalty in penalties:
        assert sum(scores[4, penalty]) > sum(scores[1, penalty])


def test_the_length_penalty_favours_longer_texts():
    lengths = [
        sum(len(searched(Table(seed), 4, penalty, 6).tokens) for seed in range(30))
        for penalty in (0.0, 1.0, 3.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_stop_ends_a_beam():
    found = searched(Table(2), 64, 0.0, 4, stops=lambda tokens: tokens[-1] == 0)
    assert 0 not in found.tokens[:-1]
    assert math.isfinite(found.score)


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"length_penalty": float("nan")}, "length_penalty=nan"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"stop": "end"}, "list of strings"),
        ({"stop": [""]}, "list of strings"),
        ({"temperature": 0.5, "do_sample": False}, "temperature shapes what is drawn"),
        ({"num_beams": 2, "top_k": 5}, "num_beams searches"),
        ({"num_beams": 2, "do_sample": True}, "num_beams searches"),
    ],
)
def test_a_plan_out_of_bounds_is_refused(wrong, line):
    with pytest.raises(LmzooError, match=line):
        Plan(**wrong).check()


@pytest.mark.parametrize("objective", ["bilm", "mlm", "mlm_nsp"])
def test_what_cannot_generate_names_what_can(objective, tokenizer):
    model = language_model("bert", objective, tokenizer)
    with pytest.raises(LmzooError) as refusal:
        model.generate("The cat")
    assert str(refusal.value) == (
        f"objective={objective} cannot generate; a model trained with objective=clm can"
    )


def test_positions_are_counted_before_anything_is_generated(tokenizer):
    model = language_model("gpt2", "clm", tokenizer, max_positions=12)
    length = 1 + len(tokenizer.encode_batch(["The cat"])[0])
    assert len(model.generate("The cat", 13 - length).ids) <= 13 - length
    with pytest.raises(LmzooError) as refusal:
        model.generate(["a", "The cat"], 14 - length)
    assert str(refusal.value) == (
        f"prompt 2 has {length} tokens, and {14 - length} new ones are more than the 12 positions of this "
        f"model; set max_new_tokens={13 - length} or less"
    )
