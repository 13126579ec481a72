"""Minimal pairs against loops written out and against transformers; the files of BLiMP's format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

import lmzoo
from builders import SCORED, batch_of
from hub_folders import FORMS, made_folder
from inference_models import language_model
from lmzoo.errors import LmzooError
from lmzoo.hub.folder import export_model
from lmzoo.hub.reading import AbsentHead
from lmzoo.nn.sizes import complete
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
from lmzoo.yardsticks.base import Asked
from lmzoo.yardsticks.blocks import bits_per_byte, pseudo_likelihood
from lmzoo.yardsticks.corpus_pairs import corpus_pairs
from lmzoo.yardsticks.likelihoods import paired_scores, sentence_scores, ways_of, word_ends
from lmzoo.yardsticks.minimal_pairs import minimal_pairs, read_pairs

SENTENCES = [
    ("The cat sat on the mat.", "The cat sat on mat the."),
    ("a dog", "a the dog dog cats naïve"),
    ("猫坐在垫子上。", "猫坐垫子在上。"),
    ("The dog sat.", "The dog sat."),
    ("the cat sat on the unseen mat", "the cat sat on the unseen mats"),
    ("Dogs sat 🙂.", "Dog sat 🙂."),
]


def rows_of(sentences=SENTENCES) -> list[dict]:
    names = [("one", "binding", "syntax/semantics"), ("two", "s-selection", "syntax"),
             ("three", "argument_structure", "syntax")]  # fmt: skip
    return [
        {"UID": uid, "linguistics_term": term, "field": field, "pairID": str(i // 3), "sentence_good": good,
         "sentence_bad": bad, "simple_LM_method": True}
        for i, (good, bad) in enumerate(sentences)
        for uid, term, field in [names[i % 3]]
    ]  # fmt: skip


def write_pairs(path: Path, rows: list[dict]) -> Path:
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture
def asked(tmp_path) -> Asked:
    return Asked(pairs=write_pairs(tmp_path / "pairs.jsonl.gz", rows_of()))


# ---------------------------------------------------------------------------------- scores


def within_word(model, text: str) -> float:
    """Each token with the later ones of its word masked, each from a row of its own."""
    engine = model.engine
    ids, places = engine.tokenizer.encode_with_offsets([text])[0]
    total = 0.0
    for place, end in enumerate(word_ends(text, places)):
        row = engine.row(ids)
        row[1 + place : 2 + end] = [engine.special.mask] * (end - place + 1)
        with torch.no_grad():
            hidden = engine.backbone(batch_of([[row]], len(row)))
            states = engine.objective.stream(hidden, "mlm")[0, 1 + place - engine.ahead]
            total += float(engine.objective.head.logits(states[None])[0].log_softmax(-1)[ids[place]])
    return total


@pytest.mark.parametrize(("family", "objective"), SCORED)
def test_sentences_score_as_alone_and_as_the_score_command_says(family, objective, tokenizer):
    # an LSTM of large weights is chaotic: it makes much of what rounding leaves
    model = language_model(family, objective, tokenizer, sharpness=1.0 if family in ("elmo", "lstm") else 3.0)
    texts = [text for pair in SENTENCES for text in pair]
    together = list(sentence_scores(model.engine, texts, batch_tokens=8192))
    for text, found in zip(texts, together, strict=True):
        (alone,) = sentence_scores(model.engine, [text], batch_tokens=1)
        assert tuple(found.nats) == ways_of(model.engine)
        assert found.nats == pytest.approx(alone.nats, abs=1e-4)
        if model.engine.name in ("clm", "bilm"):
            (said,) = model.score([text], details=True, ending=True)
            assert found.nats["without_end"] == pytest.approx(model.score([text])[0], abs=1e-4)
        else:
            (said,) = model.score([text], details=True)
            assert found.nats["within_word"] == pytest.approx(within_word(model, text), abs=1e-4)
        assert found.nats[ways_of(model.engine)[0]] == pytest.approx(said.nats, abs=1e-4)
        if objective == "bilm":
            assert found.nats["backward"] == pytest.approx(said.backward, abs=1e-4)
        assert (found.tokens, found.unknown, found.cut) == (said.tokens, 0, False)


def test_a_masked_row_that_two_sentences_share_is_read_once(tokenizer):
    model = language_model("bert", "mlm", tokenizer)
    texts = ["The cat sat on the mat.", "The cat sat on the mat!"]
    ids = tokenizer.encode_batch(texts)
    assert len(ids[0]) == len(ids[1])
    differing = sum(a != b for a, b in zip(*ids, strict=True))
    rows = []
    model.engine.backbone.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    _ = [score.nats for score in sentence_scores(model.engine, texts, batch_tokens=8192, framed=False)]
    assert differing == 1
    assert sum(rows) == 2 * len(ids[0]) - 1


@pytest.mark.parametrize("form", ["modernbert", "bert", "modernbert-decoder", "gpt2"])
def test_a_hugging_face_folder_scores_as_transformers_computes_it(form, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = made_folder(tmp_path, tokenizer, form, foreign=False)
    sharpened(folder, form, tokenizer)
    model = lmzoo.load(folder)
    masked = FORMS[form][1] != "clm"
    kind = {"bert": "AutoModelForPreTraining"}.get(
        form, "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"
    )
    theirs = getattr(transformers, kind).from_pretrained(folder).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    special = tokenizer.special

    def logits(rows: list[list[int]]) -> torch.Tensor:
        found = theirs(input_ids=torch.tensor(rows))
        return (found.prediction_logits if "prediction_logits" in found else found.logits).log_softmax(-1)

    def score(text: str) -> float:
        ids = their_tokenizer(text, add_special_tokens=False)["input_ids"]
        row = [special.cls, *ids, special.sep]
        with torch.no_grad():
            if not masked:
                nats = logits([row])[0]
                return float(sum(nats[place, token] for place, token in enumerate(row[1:])))
            total = 0.0
            for place, token in enumerate(ids, 1):
                hidden = [*row[:place], special.mask, *row[place + 1 :]]
                total += float(logits([hidden])[0, place, token])
            return total

    found = list(paired_scores(model.engine, SENTENCES, batch_tokens=8192))
    way = ways_of(model.engine)[0]
    for pair, ours in zip(SENTENCES, found, strict=True):
        want = [score(text) for text in pair]
        assert [each.nats[way] for each in ours] == pytest.approx(want, rel=1e-4)
        if pair[0] != pair[1]:
            assert (ours[0].nats[way] > ours[1].nats[way]) == (want[0] > want[1])


def sharpened(folder: Path, form: str, tokenizer, positions: int = 40) -> None:
    """Write the folder anew with weights whose guesses are far apart; learned positions are so many."""
    family, objective = FORMS[form]
    learned = {"max_positions": positions} if form in ("bert", "gpt2") else {}
    model = language_model(family, objective, tokenizer, sharpness=8.0, **learned)
    config = complete(model.engine.module.backbone.encoder.config, size=None, pairs=False, seq_len=positions)
    export_model(folder, model.engine.module, config, positions, tokenizer)


# ---------------------------------------------------------------------------------- the yardstick


@pytest.mark.parametrize(("family", "objective"), [("gpt", "clm"), ("elmo", "bilm"), ("bert", "mlm")])
def test_accuracy_is_told_by_paradigm_phenomenon_and_overall(family, objective, tokenizer, asked):
    model = language_model(family, objective, tokenizer, sharpness=3.0)
    found = minimal_pairs(model, asked)
    right = {}
    for row, item in zip(rows_of(), found.items, strict=True):
        kwargs = {"ending": True} if objective != "mlm" else {}
        good, bad = model.score([row["sentence_good"], row["sentence_bad"]], **kwargs)
        assert (item["good"], item["bad"]) == pytest.approx((good, bad), rel=1e-5, abs=1e-4)
        assert item["id"] == f"{row['UID']}/{row['pairID']}"
        same = row["sentence_good"] == row["sentence_bad"]
        assert item["correct"] == (not same and good > bad)
        right.setdefault(row["UID"], []).append(item["correct"])
    paradigms = {name: 100 * sum(each) / len(each) for name, each in right.items()}
    assert found.parts["paradigms"] == pytest.approx(paradigms)
    assert found.figure == pytest.approx(sum(paradigms.values()) / 3)
    both = (paradigms["two"] + paradigms["three"]) / 2
    assert found.parts["phenomena"] == pytest.approx(
        {"binding": paradigms["one"], "argument_structure": both}
    )
    assert set(found.parts["fields"]) == {"syntax_semantics", "syntax"}
    assert found.parts["mean_over_pairs"] == pytest.approx(100 * sum(map(sum, right.values())) / 6)
    assert (found.parts["ties"], found.parts["cut"], found.parts["without_tokens"]) == (1, 0, 0)
    assert (found.unit, found.higher_is_better, found.settings["temperature"]) == ("% correct", True, 1)
    assert "published" not in found.parts


def test_unequal_paradigms_count_alike(tokenizer, tmp_path):
    rows = [row for row in rows_of() if row["UID"] == "one" or row["pairID"] == "0"]
    path = write_pairs(
        tmp_path / "p.jsonl", [*rows, *(row | {"pairID": f"b{row['pairID']}"} for row in rows[:1])]
    )
    found = minimal_pairs(language_model("gpt", "clm", tokenizer, sharpness=3.0), Asked(pairs=path))
    paradigms = found.parts["paradigms"]
    assert len(found.items) == 5
    assert found.figure == pytest.approx(sum(paradigms.values()) / 3)
    weighted = (3 * paradigms["one"] + paradigms["two"] + paradigms["three"]) / 5
    assert found.parts["mean_over_pairs"] == pytest.approx(weighted)


def test_what_the_boundary_is_worth_comes_from_the_same_pass(tokenizer, asked):
    for family, objective in (("gpt", "clm"), ("elmo", "bilm")):
        model = language_model(family, objective, tokenizer, sharpness=3.0)
        found = minimal_pairs(model, asked)
        bare = [model.score([row["sentence_good"], row["sentence_bad"]]) for row in rows_of()]
        right = [good > bad and pair[0] != pair[1] for (good, bad), pair in zip(bare, SENTENCES, strict=True)]
        assert [item["without_end"] for item in found.items] == right
        framing = found.parts["framing"]
        assert framing["without_boundary"] == pytest.approx(100 * sum(right) / 6)
        assert (framing["with_boundary"], framing["pairs"]) == (found.figure, 6)


def test_for_a_masked_model_it_is_measured_on_bare_sentences(tokenizer, asked):
    model = language_model("bert", "mlm", tokenizer, sharpness=3.0)
    found = minimal_pairs(model, asked)
    engine = model.engine

    def bare(text: str) -> float:
        ids = tokenizer.encode_batch([text])[0]
        total = 0.0
        for place, token in enumerate(ids):
            row = [*ids[:place], engine.special.mask, *ids[place + 1 :]]
            with torch.no_grad():
                states = engine.backbone(batch_of([[row]], len(row))).states[0, place]
                total += float(engine.objective.head.logits(states[None])[0].log_softmax(-1)[token])
        return total

    right = [bare(good) > bare(bad) and good != bad for good, bad in SENTENCES]
    within = [within_word(model, good) > within_word(model, bad) and good != bad for good, bad in SENTENCES]
    assert found.parts["within_word"] == {
        "pairs": 6,
        "pseudo_log_likelihood": pytest.approx(found.figure),
        "within_word": pytest.approx(100 * sum(within) / 6),
    }
    assert found.parts["framing"] == {
        "pairs": 6,
        "with_boundary": pytest.approx(found.figure),
        "without_boundary": pytest.approx(100 * sum(right) / 6),
    }


def test_published_scores_stand_beside_the_own_ones(tokenizer, asked):
    rows = ("UID field linguistics_term lstm human", "one s b 0.5 0.9", "three s a 0.7 1.0", "other s a 0 0")
    table = "".join(row.replace(" ", "\t") + "\n" for row in rows)
    path = asked.pairs.with_name("blimp_reference.tsv")
    path.write_text(table, encoding="utf-8")
    model = language_model("gpt", "clm", tokenizer)
    published = minimal_pairs(model, asked).parts["published"]
    assert published["overall"] == pytest.approx({"lstm": 60.0, "human": 95.0})
    assert published["phenomena"]["argument_structure"] == pytest.approx({"lstm": 70.0, "human": 100.0})
    assert set(published["paradigms"]) == {"one", "three"}
    path.write_text(table + "two\ts\ta\tmuch\t1\n", encoding="utf-8")
    with pytest.raises(LmzooError, match=r"blimp_reference\.tsv:5 has no UID, or a score that is no number"):
        minimal_pairs(model, asked)


def test_a_trial_takes_the_first_of_each_paradigm(tokenizer, asked):
    model = language_model("gpt", "clm", tokenizer)
    whole = minimal_pairs(model, asked)
    some = minimal_pairs(model, Asked(pairs=asked.pairs, limit=1))
    assert [item["id"] for item in some.items] == ["one/0", "two/0", "three/0"]
    for item, same in zip(some.items, whole.items, strict=False):
        assert item["good"] == pytest.approx(same["good"], rel=1e-5)
    assert some.items_hash != whole.items_hash


def test_the_hash_is_of_the_sentences_and_not_of_the_model_or_file(tokenizer, asked, tmp_path):
    models = [language_model(*names, tokenizer) for names in (("gpt", "clm"), ("bert", "mlm"))]
    plain = Asked(pairs=write_pairs(tmp_path / "other.jsonl", rows_of()), batch_tokens=20)
    assert len({minimal_pairs(model, each).items_hash for model in models for each in (asked, plain)}) == 1
    changed = write_pairs(tmp_path / "changed.jsonl", rows_of([*SENTENCES[:-1], ("a", "b")]))
    assert (
        minimal_pairs(models[0], Asked(pairs=changed)).items_hash
        != minimal_pairs(models[0], plain).items_hash
    )


def test_slings_keys_are_known(tokenizer, tmp_path):
    sentences = {"sentence_good": "猫坐在上。", "sentence_bad": "猫坐上。"}
    rows = [{"UID": "ma", "phenomenon": "Question", "pairID": n} | sentences for n in range(2)]
    path = write_pairs(tmp_path / "sling.jsonl", rows)
    found = minimal_pairs(language_model("bert", "mlm", tokenizer), Asked(pairs=path))
    assert list(found.parts["phenomena"]) == ["Question"]
    assert found.parts["fields"] == {}
    assert [item["id"] for item in found.items] == ["ma/0", "ma/1"]


def test_what_is_cut_unknown_or_empty_is_counted(tmp_path):
    made = train_tokenizer(
        TokenizerConfig(name="wordpiece", vocab_size=20, lowercase=True), ["the cat sat " * 9]
    )
    model = language_model("bert_2018", "mlm", made, max_positions=8)
    long = "the cat sat on the mat and the cat sat on the mat"
    rows = rows_of([(long, "the cat"), ("the 猫 cat", "the cat 🙂"), ("\u200b", "the cat")])
    found = minimal_pairs(model, Asked(pairs=write_pairs(tmp_path / "p.jsonl", rows)))
    assert (found.parts["cut"], found.parts["without_tokens"]) == (1, 1)
    assert found.parts["unknown_tokens"] >= 2
    assert len(found.items) == 3


def row(**changes) -> str:
    """A line of JSON; ... leaves a key out."""
    given = {"UID": "a", "linguistics_term": "b", "sentence_good": "c", "sentence_bad": "d"} | changes
    return json.dumps({key: value for key, value in given.items() if value is not ...})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"UID": "a"', r":2 is not JSON .*; write one object a line"),
        ("[1]", r":2 is no JSON object"),
        (row(sentence_bad=...), r":2: sentence_bad is missing; every line needs it"),
        (row(linguistics_term=...), r":2: linguistics_term is missing"),
        (row(UID=...), r":2: UID is missing"),
        (row(sentence_bad=" "), r":2: sentence_bad is empty"),
        (row(UID=3), r":2: UID is no text"),
        (row(sentence_good="\ud800"), r":2 holds half a surrogate"),
        (row(UID="one", pairID=0), r":2: the pair one/0 is there twice"),
        ("\udcff", r":2 is not UTF-8"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line, message, tokenizer, tmp_path):
    path = tmp_path / "pairs.jsonl"
    first = json.dumps(rows_of()[0])
    path.write_bytes(f"{first}\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(LmzooError, match=message) as caught:
        minimal_pairs(language_model("gpt", "clm", tokenizer), Asked(pairs=path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_pairs_and_none_at_all(tokenizer, tmp_path):
    model = language_model("gpt", "clm", tokenizer)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(LmzooError, match=r"empty\.jsonl holds no pairs"):
        minimal_pairs(model, Asked(pairs=tmp_path / "empty.jsonl"))
    with pytest.raises(LmzooError, match="needs pairs=FILE"):
        minimal_pairs(model, Asked())
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(LmzooError, match=r"cut\.jsonl\.gz is damaged"):
        list(read_pairs(tmp_path / "cut.jsonl.gz"))


def test_the_real_files_are_read(shared_data):
    blimp = list(read_pairs(shared_data / "zeroshot" / "blimp.jsonl.gz"))
    assert len(blimp) == 67_000
    assert len({pair.paradigm for pair in blimp}) == 67
    assert len({pair.phenomenon for pair in blimp}) == 12
    assert {pair.field for pair in blimp} == {"syntax", "morphology", "syntax_semantics", "semantics"}
    sling = list(read_pairs(shared_data / "zh" / "sling.jsonl.gz", limit=2))
    assert len(sling) == 2 * len({pair.paradigm for pair in sling}) == 80


def test_a_model_without_a_head_has_no_figure_but_a_reason(tokenizer, asked):
    for family, objective in (("gpt", "clm"), ("bert", "mlm")):
        model = language_model(family, objective, tokenizer)
        model.engine.objective.head = AbsentHead(Path("somewhere/headless"))
        for take in (minimal_pairs, corpus_pairs, bits_per_byte, pseudo_likelihood):
            found = take(model, asked)
            assert found.figure is None
            assert found.reason == "headless has no weights of a head that predicts tokens"
