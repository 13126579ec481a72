"""Frozen probes: features that are the model's own, in a bounded store, and heads that learn from them."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmzoo.errors import LmzooError
from lmzoo.tasks import features as features_module
from lmzoo.tasks import trial
from lmzoo.tasks.examples import Labelled, Tagged
from lmzoo.tasks.features import Features, Keep, Units, rows_hash, weights_hash
from lmzoo.tasks.result import RESULT, draw_mixture, folder_of, save, table
from lmzoo.tasks.run import finetune
from lmzoo.tasks.store import FeatureStore
from lmzoo.tasks.trial import random_twin
from task_data import CASES, FAMILIES, framed, quick, subject, task

close = {"rtol": 0, "atol": 2e-3}  # float16 on disk
KEYS = (
    "task mode variant metric score deviation seeds controls by_layer scored_part items items_hash counts "
    "notes references model config seconds"
)


def kept(model, rows, keep, folder, gigabytes=1.0):
    return Features(model.engine, rows, keep, FeatureStore(folder, gigabytes), weights="w", what="a test")


# ---------------------------------------------------------------------------------- features


@pytest.mark.parametrize(("family", "objective"), FAMILIES)
def test_features_are_the_layers_of_the_model(family, objective, tokenizer, tmp_path):
    model = subject(family, objective, tokenizer)
    sentences = [("the", "cat", "sat"), (), ("the", "dog", "sat", "on", "the", "cat")]
    rows = framed(
        model, [Tagged(str(i), words, words) for i, words in enumerate(sentences)], closing=model.engine.ends
    )
    tokens = kept(model, rows, Keep("token"), tmp_path)
    means = kept(model, rows, Keep("row"), tmp_path)
    first = kept(model, rows, Keep("word"), tmp_path)
    whole = kept(model, rows, Keep("word", pieces="mean"), tmp_path)
    static = kept(model, rows, Keep("word", pieces="mean", static=True), tmp_path)
    texts = [" ".join(words) for words in sentences]
    from lmzoo.inference.embed import Wanted, embed_stream

    by_token = list(embed_stream(model.engine, texts, Wanted(layer="all")))
    by_row = list(embed_stream(model.engine, texts, Wanted(layer="all", pooling="mean")))
    every = range(3)
    for i in range(3):
        one = np.array([i])
        np.testing.assert_allclose(means.take(one, every)[0], by_row[i], **close)
        vectors = by_token[i].vectors.swapaxes(0, 1)
        np.testing.assert_allclose(tokens.take(one, every)[1 : 1 + len(vectors)], vectors, **close)
        places = rows.words[i][:, 1:] - 1
        expected = [vectors[begin] for begin, _ in places]
        np.testing.assert_allclose(
            first.take(one, every), np.array(expected).reshape(-1, *vectors.shape[1:]), **close
        )
        expected = [vectors[begin:end].mean(0) for begin, end in places]
        mean = np.array(expected).reshape(-1, *vectors.shape[1:])
        np.testing.assert_allclose(whole.take(one, every), mean, **close)
        np.testing.assert_allclose(static.take(one, [0]), mean[:, :1], **close)
        np.testing.assert_array_equal(whole.take(one, [1]), whole.take(one, every)[:, 1:2])
    both = whole.take(np.array([2, 0]), [0, 2])
    np.testing.assert_array_equal(
        both, np.concatenate([whole.take(np.array([i]), every) for i in (2, 0)])[:, [0, 2]]
    )


@pytest.mark.parametrize(("family", "objective"), FAMILIES)
def test_a_window_gives_what_its_text_alone_gives(family, objective, tokenizer, tmp_path):
    model = subject(family, objective, tokenizer)
    words = ("the", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "sat", "on", "the", "cat")
    items = [Tagged("1", words, words)]
    long, short = framed(model, items, 64), framed(model, items, 10)
    assert short.counts["windows"] > 1
    assert long.counts["windows"] == 0
    every = np.array([0])
    static = [
        kept(model, rows, Keep("word", static=True), tmp_path).take(every, [0]) for rows in (long, short)
    ]
    np.testing.assert_allclose(*static, **close)  # nothing but the token is in layer 0
    deep = kept(model, short, Keep("word"), tmp_path).take(every, range(3))
    tokens = kept(model, short, Keep("token"), tmp_path)
    for place, (row, begin, _) in enumerate(short.words[0].tolist()):
        np.testing.assert_allclose(deep[place], tokens.take(np.array([row]), range(3))[begin], **close)


def test_a_word_of_no_subword_has_no_features(tokenizer, tmp_path):
    model = subject("bert", "mlm", tokenizer)
    rows = framed(model, [Tagged("1", ("cat", "dog"), ("A", "B"))])
    rows.words[0][1] = -1
    for pieces in ("first", "mean"):
        found = kept(model, rows, Keep("word", pieces=pieces), tmp_path).take(np.array([0]), range(3))
        assert found[0].abs().sum() > 0
        assert found[1].abs().sum() == 0


def test_features_are_found_again_and_never_computed_twice(tokenizer, tmp_path, monkeypatch):
    model = subject("bert", "mlm", tokenizer)
    rows = framed(model, [Labelled(str(i), (f"the cat {'sat ' * i}",), "a") for i in range(5)])
    first = kept(model, rows, Keep("row"), tmp_path).take(np.arange(5), range(3))

    def refuse(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(features_module, "compute", refuse)
    again = kept(model, rows, Keep("row"), tmp_path)
    assert again.kept
    torch.testing.assert_close(again.take(np.arange(5), range(3)), first, rtol=0, atol=0)
    for other in (Keep("row", pool="max"), Keep("token")):
        with pytest.raises(AssertionError, match="computed again"):
            kept(model, rows, other, tmp_path)
    changed = framed(model, [Labelled("1", ("the dog",), "a")])
    assert rows_hash(changed) != rows_hash(rows)
    assert not list(tmp_path.glob(".*"))  # nothing half-written


def test_the_hash_knows_the_weights_and_what_they_see(tokenizer):
    backbone = subject("gpt", "clm", tokenizer).engine.backbone
    before = weights_hash(backbone, "past")
    assert weights_hash(backbone, "past") == before != weights_hash(backbone, "full")
    with torch.no_grad():
        next(iter(backbone.parameters())).view(-1)[0] += 1e-3
    assert weights_hash(backbone, "past") != before


def test_the_store_never_takes_more_than_its_room(tmp_path):
    store = FeatureStore(tmp_path, 3 * 40_000 / 2**30)  # for two of 20,000 numbers with what is around them
    filled = []

    def fill(name):
        def write(target):
            filled.append(name)
            target[:] = len(filled)

        return write

    for name in ("a", "b", "a", "c"):
        found = store.open(name, (100, 2, 100), fill(name))
        assert found.shape == (100, 2, 100)
        assert not found.flags.writeable
        sizes = [path.stat().st_size for path in tmp_path.glob("*.npy")]
        assert sum(sizes) <= store.room
    assert filled == ["a", "b", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.npy", "c.json", "c.npy"]
    assert store.open("d", (100, 9, 100), fill("d")) is None  # larger than all of the room
    assert filled == ["a", "b", "c"]
    (tmp_path / "a.npy").write_bytes(b"damaged")
    assert store.open("a", (100, 2, 100), fill("a"))[0, 0, 0] == 4


def test_a_store_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LmzooError, match=r"features cannot be kept in .*features_gigabytes=0"):
        FeatureStore(tmp_path / "file", 1).open("a", (1, 1, 1), lambda target: None)


def test_what_fails_while_it_is_filled_leaves_nothing(tmp_path):
    def fail(target):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        FeatureStore(tmp_path, 1).open("a", (10, 1, 1), fail)
    assert list(tmp_path.iterdir()) == []


def test_without_room_features_are_computed_anew(tokenizer, tmp_path):
    model = subject("elmo", "bilm", tokenizer)
    words = ("the", "cat", "sat", "on", "the", "mat", "and", "the", "dog")
    rows = framed(model, [Tagged(str(i), words[: 3 + i], words[: 3 + i]) for i in range(6)], 9)
    some = np.array([4, 0, 5])
    for keep in (Keep("word"), Keep("token")):
        held, anew = (kept(model, rows, keep, tmp_path / str(room), room) for room in (1, 0))
        assert (held.kept, anew.kept) == (True, False)
        np.testing.assert_allclose(anew.take(some, range(3)), held.take(some, range(3)), **close)
        np.testing.assert_allclose(anew.take(some, [1]), held.take(some, [1]), **close)


def test_layers_are_brought_to_one_scale(tokenizer, tmp_path):
    model = subject("bert", "mlm", tokenizer, sharpness=3.0)
    rows = framed(model, [Labelled(str(i), (f"the {'cat ' * i}",), "a") for i in range(20)])
    found = kept(model, rows, Keep("row"), tmp_path)
    mean, deviation = found.scale(np.arange(20))
    x = (found.take(np.arange(20), range(3)) - mean) / deviation
    np.testing.assert_allclose(x.mean((0, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(x.square().mean((0, 2)), 1, atol=1e-3)


def test_units_of_sequences_come_in_order():
    class Rows:
        rows = ([0] * 3, [0] * 2, [0] * 4)

    units = Units(Rows, Keep("token"))
    numbers, counts = units.of(np.array([2, 0]))
    assert numbers.tolist() == [5, 6, 7, 8, 0, 1, 2]
    assert counts.tolist() == [4, 3]
    assert units.of_row(1).tolist() == [3, 4]


# ---------------------------------------------------------------------------------- probes


BEATS = {"sentence": 80, "pair": 70, "tagging": 95, "spans": 75, "number": 75}


@pytest.mark.parametrize(("family", "objective", "shape"), CASES)
def test_a_probe_learns_what_a_word_tells(family, objective, shape, tokenizer, tmp_path):
    model, data = subject(family, objective, tokenizer), task(shape, 220)
    found = finetune(model, data, quick(tmp_path, epochs=20, lr=3e-2))
    assert found.score > BEATS[shape]
    assert len(found.seeds[0].predictions) == len(data.scored) == found.items
    if shape == "number":
        assert all(isinstance(value, float) for value in found.seeds[0].predictions)
    if shape == "tagging":
        lengths = [len(tags) for tags in found.seeds[0].predictions]
        assert lengths == [len(item.words) for item in data.scored]


def test_predictions_stand_in_the_order_of_the_items(tokenizer, tmp_path):
    data = task("sentence")
    found = finetune(subject("bert", "mlm", tokenizer), data, quick(tmp_path, epochs=30, lr=2e-2)).seeds[0]
    right = [told == item.label for told, item in zip(found.predictions, data.scored, strict=True)]
    assert 100 * sum(right) / len(right) == pytest.approx(found.score)
    turned = replace(data, scored=data.scored[::-1])
    again = finetune(subject("bert", "mlm", tokenizer), turned, quick(tmp_path, epochs=30, lr=2e-2)).seeds[0]
    assert again.predictions == found.predictions[::-1]


@pytest.mark.parametrize("shape", ["sentence", "tagging"])
@pytest.mark.parametrize("beside", ["none", "input", "output", "both"])
def test_a_bilstm_and_own_vectors_learn_too(shape, beside, tokenizer, tmp_path):
    settings = quick(tmp_path, head="bilstm", beside=beside, hidden_size=16, own_size=8, epochs=10, lr=2e-2)
    found = finetune(subject("elmo", "bilm", tokenizer), task(shape, 200), settings)
    assert found.score > BEATS[shape]
    names = {"none": ["input"], "input": ["input"], "output": ["output"], "both": ["input", "output"]}
    assert list(found.seeds[0].mixture) == names[beside]


@pytest.mark.parametrize("shape", ["pair", "spans"])
def test_own_vectors_under_a_linear_head_and_pairs_and_spans_of_a_bilstm(shape, tokenizer, tmp_path):
    model = subject("gpt", "clm", tokenizer)
    linear = finetune(
        model, task(shape, 200), quick(tmp_path, beside="input", own_size=8, epochs=20, lr=2e-2)
    )
    lstm = finetune(
        model, task(shape, 200), quick(tmp_path, head="bilstm", hidden_size=16, epochs=8, lr=1e-2)
    )
    assert min(linear.score, lstm.score) > 70


@pytest.mark.parametrize("pool", ["last", "max", "concat"])
@pytest.mark.parametrize("head", ["linear", "bilstm"])
def test_every_pooling_learns(pool, head, tokenizer, tmp_path):
    settings = quick(tmp_path, pool=pool, head=head, hidden_size=16, epochs=10, lr=2e-2)
    assert finetune(subject("elmo", "bilm", tokenizer), task("sentence", 220), settings).score > 70


def test_cls_needs_a_model_that_has_seen_the_text(tokenizer, tmp_path):
    settings = quick(tmp_path, pool="cls", epochs=2)
    finetune(subject("bert", "mlm", tokenizer), task("sentence", 30), settings)
    finetune(subject("gpt", "clm", tokenizer), task("sentence", 30), replace(settings, context="full"))
    for family, objective, changes in (("gpt", "clm", {}), ("bert", "mlm", {"head": "bilstm"})):
        with pytest.raises(LmzooError, match="pool=cls needs a"):
            finetune(
                subject(family, objective, tokenizer), task("sentence", 30), replace(settings, **changes)
            )


def test_each_layer_alone_and_the_best_is_chosen_on_the_part_for_stopping(tokenizer, tmp_path):
    data = task("sentence", 100)
    found = finetune(
        subject("bert", "mlm", tokenizer), data, quick(tmp_path, layers="each", epochs=5, seeds=[1, 2])
    )
    assert list(found.by_layer) == ["0", "1", "2"]
    assert all(len(scores) == 2 for scores in found.by_layer.values())
    for number, entry in enumerate(found.seeds):
        assert found.by_layer[str(entry.layer)][number] == entry.score
    alone = finetune(subject("bert", "mlm", tokenizer), data, quick(tmp_path, layers="1", epochs=5))
    assert alone.seeds[0].score == found.by_layer["1"][0]
    top = finetune(subject("bert", "mlm", tokenizer), data, quick(tmp_path, layers="top", epochs=5))
    assert top.seeds[0].score == found.by_layer["2"][0]
    assert not top.seeds[0].mixture
    with pytest.raises(LmzooError, match="layers=3: this model has the layers 0"):
        finetune(subject("bert", "mlm", tokenizer), data, quick(tmp_path, layers="3"))


@pytest.mark.parametrize("mode", ["frozen", "full"])
@pytest.mark.parametrize("shape", ["sentence", "tagging"])
def test_what_is_scored_teaches_nothing(mode, shape, tokenizer, tmp_path, monkeypatch):
    """Weights are equal to the bit whatever the scored labels are, and other ones where training's differ."""
    plain = trial.predict
    weights = []

    def watched(learner, part):
        weights[-1] += [p.detach().clone() for p in learner.module.parameters()]
        return plain(learner, part)

    monkeypatch.setattr(trial, "predict", watched)
    data = task(shape, 100)

    def other(items):
        if shape == "sentence":
            return [replace(item, label={"yes": "no", "no": "yes"}[item.label]) for item in items]
        return [replace(item, tags=("VERB",) * len(item.tags)) for item in items]

    settings = quick(tmp_path, mode=mode, epochs=3, lrs=[1e-3, 1e-2])
    for changed in ({}, {"scored": other(data.scored)}, {"train": other(data.train)}):
        weights.append([])
        finetune(subject("bert", "mlm", tokenizer), replace(data, **changed), settings)
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=False))


def test_the_best_epoch_on_the_part_for_stopping_is_kept(tokenizer, tmp_path):
    data = task("sentence", 100)
    # the part for stopping is taught the other way round: the longer it learns, the worse it becomes
    wrong = [replace(item, label={"yes": "no", "no": "yes"}[item.label]) for item in data.stop]
    settings = quick(tmp_path, epochs=12, patience=3, lr=2e-2)
    found = finetune(subject("bert", "mlm", tokenizer), replace(data, stop=wrong), settings).seeds[0]
    assert found.epochs < 12
    assert found.epochs == found.best_epoch + 3
    usual = finetune(subject("bert", "mlm", tokenizer), data, settings).seeds[0]
    assert usual.best_epoch > found.best_epoch
    assert usual.stop_score > 80
    without = finetune(subject("bert", "mlm", tokenizer), replace(data, stop=[]), settings)
    assert (without.seeds[0].epochs, without.seeds[0].best_epoch, without.seeds[0].stop_score) == (
        12,
        12,
        None,
    )
    assert "the last epoch counts" in " ".join(without.notes)
    with pytest.raises(LmzooError, match="has no part for stopping"):
        finetune(
            subject("bert", "mlm", tokenizer),
            replace(data, stop=[]),
            replace(settings, lr=None, lrs=[1e-3, 1e-2]),
        )


def test_of_several_rates_the_best_on_the_part_for_stopping_is_taken(tokenizer, tmp_path):
    data = task("sentence", 150)
    one = [
        finetune(subject("bert", "mlm", tokenizer), data, quick(tmp_path, epochs=8, lr=lr)).seeds[0]
        for lr in (1e-6, 2e-2)
    ]
    both = finetune(
        subject("bert", "mlm", tokenizer), data, quick(tmp_path, epochs=8, lrs=[1e-6, 2e-2])
    ).seeds[0]
    assert both.lr == 2e-2
    assert both.predictions == one[1].predictions
    assert one[0].stop_score < one[1].stop_score


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_a_seed_repeats_itself_whatever_was_drawn_before(mode, tokenizer, tmp_path):
    data, settings = (
        task("sentence", 60),
        quick(tmp_path, mode=mode, epochs=2, seeds=[3, 4], dropout=0.3, lr=1e-3),
    )
    torch.manual_seed(0)
    first = finetune(subject("elmo", "bilm", tokenizer), data, settings)
    torch.manual_seed(1)
    random.seed(5)
    again = finetune(subject("elmo", "bilm", tokenizer), data, settings)
    swapped = finetune(subject("elmo", "bilm", tokenizer), data, replace(settings, seeds=[4, 3]))
    assert [entry.stop_score for entry in first.seeds] == [entry.stop_score for entry in again.seeds]
    assert [entry.predictions for entry in first.seeds] == [entry.predictions for entry in again.seeds]
    assert [entry.predictions for entry in first.seeds[::-1]] == [
        entry.predictions for entry in swapped.seeds
    ]


def test_kept_features_give_the_same_result(tokenizer, tmp_path, capsys):
    data = task("tagging", 60)
    settings = quick(tmp_path, epochs=3)
    found = [finetune(subject("gpt", "clm", tokenizer), data, settings) for _ in range(2)]
    assert found[0].seeds[0].predictions == found[1].seeds[0].predictions
    assert found[0].seeds[0].mixture == found[1].seeds[0].mixture
    assert len(list((tmp_path / "features").glob("*.npy"))) == 1
    without = quick(tmp_path / "b", features_gigabytes=0.0, random_control=True)
    notes = finetune(subject("gpt", "clm", tokenizer), data, without).notes
    assert [note for note in notes if "computed anew" in note] == notes[-1:]
    assert capsys.readouterr().err.count("computed anew") == 1  # before the epochs, and not at the end alone


# ---------------------------------------------------------------------------------- controls and results


def test_a_random_twin_has_the_same_form_and_other_weights(tokenizer):
    for family, objective in [*FAMILIES, ("elmo_2018", "bilm")]:
        model = subject(family, objective, tokenizer)
        backbone = model.engine.backbone
        twin, other = random_twin(backbone, model.model, 1), random_twin(backbone, model.model, 2)
        assert twin.context is backbone.context
        ours, theirs = backbone.state_dict(), twin.state_dict()
        assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
        matrices = [name for name, t in ours.items() if t.dim() > 1 and t.is_floating_point()]
        assert not any(torch.equal(ours[name], theirs[name]) for name in matrices)
        assert not any(torch.equal(other.state_dict()[name], theirs[name]) for name in matrices)
        again = random_twin(backbone, model.model, 1).state_dict()
        assert all(torch.equal(again[name], theirs[name]) for name in theirs)
    assert torch.equal(ours["embedding.tokens.spelling"], theirs["embedding.tokens.spelling"])


@pytest.mark.parametrize("mode", ["frozen", "full"])
@pytest.mark.parametrize("shape", ["pair", "tagging"])
def test_the_result_holds_scores_controls_counts_and_predictions(mode, shape, tokenizer, tmp_path):
    pytest.importorskip("sklearn")
    data = task(shape, 60)
    data.counts["skipped_rows"] = 2
    settings = quick(tmp_path, mode=mode, seeds=[1, 2], epochs=2, random_control=True, static_control=True)
    found = finetune(subject("gpt", "clm", tokenizer), data, replace(settings, random_seeds=[7, 8]))
    path = save(folder_of(tmp_path, found.task, found.mode, found.variant), found, data)
    assert path.parent.name == f"dogs_{shape}-{mode}-epochs_2"
    told = json.loads(path.read_text())
    assert list(told) == KEYS.split()
    assert told["metric"] == "accuracy"
    assert told["score"] == pytest.approx(np.mean([entry["score"] for entry in told["seeds"]]))
    for entry in told["seeds"]:
        assert {"seed", "score", "metrics", "lr", "epochs", "best_epoch", "stop_score"} <= set(entry)
        assert ("mixture" in entry) == (mode == "frozen")
    assert {"majority", "static_vectors", "random_weights"} <= set(told["controls"])
    assert [entry["seed"] for entry in told["controls"]["random_weights"]["seeds"]] == [7, 8]
    assert told["counts"]["skipped_rows"] == 2
    assert told["items_hash"] == "h"
    assert told["config"]["context"] == {"pretrained": "past", "finetuned": "past"}
    assert told["config"]["epochs"] == 2
    pools = {"frozen": "mean", "full": "last"}
    assert told["config"]["pool"] == (pools[mode] if shape == "pair" else None)
    with gzip.open(path.with_name("predictions.jsonl.gz"), "rt") as file:
        lines = [json.loads(line) for line in file]
    assert [line["id"] for line in lines] == [item.id for item in data.scored]
    assert [line["predicted"] for line in lines] == [
        [entry.predictions[i] for entry in found.seeds] for i in range(len(data.scored))
    ]
    assert all(len(line["random"]) == 2 for line in lines)
    shown = table(found, path)
    for piece in (
        "this model (2 seeds)",
        "random weights (2 seeds)",
        "majority",
        str(path),
        "2 skipped rows",
    ):
        assert piece in shown


def test_the_mixture_is_reported_and_drawn(tokenizer, tmp_path):
    found = finetune(
        subject("elmo", "bilm", tokenizer), task("tagging", 60), quick(tmp_path, epochs=3, lr=1e-2)
    )
    mixture = found.seeds[0].mixture["input"]
    assert len(mixture["s"]) == 3
    assert sum(mixture["s"]) == pytest.approx(1)
    assert mixture["s"] != pytest.approx([1 / 3] * 3, abs=1e-4)
    assert mixture["gamma"] != 1
    assert "mixture  γ" in table(found, tmp_path)
    pytest.importorskip("matplotlib")
    path = save(tmp_path / "made", found, task("tagging", 60))
    assert path.with_name("mixture.svg").read_text().startswith("<?xml")
    assert draw_mixture(tmp_path / "again.svg", found)


def test_without_matplotlib_the_numbers_stand_alone(tokenizer, tmp_path, monkeypatch):
    found = finetune(subject("bert", "mlm", tokenizer), task("tagging", 40), quick(tmp_path, epochs=1))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    path = save(tmp_path / "made", found, task("tagging", 40))
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["predictions.jsonl.gz", RESULT]
    assert json.loads(path.read_text())["seeds"][0]["mixture"]["input"]["s"]


def test_a_score_without_a_meaning_is_null(tokenizer, tmp_path):
    data = task("number", 40)
    same = [replace(item, label=2.0) for item in data.scored]
    found = finetune(subject("bert", "mlm", tokenizer), replace(data, scored=same), quick(tmp_path, epochs=1))
    assert found.score is None
    path = save(tmp_path / "made", found, replace(data, scored=same))
    assert json.loads(path.read_text())["score"] is None
    assert "–" in table(found, path)
