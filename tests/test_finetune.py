"""Whole models in training: heads, contexts, ULMFiT, windows; the command; a task's text as a corpus."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmzoo import finetune as command
from lmzoo.config import compose, from_dict, to_dict
from lmzoo.data.config import DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.data.sources import open_source
from lmzoo.errors import LmzooError
from lmzoo.hub.folder import export_model
from lmzoo.tasks.config import TaskConfig
from lmzoo.tasks.examples import Labelled, Question, Tagged, TaskData
from lmzoo.tasks.fit import batches
from lmzoo.tasks.full import pool_of, pretrained_pooler, with_context
from lmzoo.tasks.goals import best_spans
from lmzoo.tasks.heads import TextHead, pooled
from lmzoo.tasks.run import finetune
from lmzoo.tasks.schedule import depth_groups, rate_factor, rated, slanted_triangular, unfrozen
from lmzoo.tasks.settings import Settings, check, variant_of
from lmzoo.tasks.text import task_documents
from lmzoo.tasks.trial import Trial, default_rate
from lmzoo.text.config import TokenizerConfig
from lmzoo.types import Context
from task_data import CASES, FAMILIES, quick, subject, task

BEATS = {"sentence": 80, "pair": 70, "tagging": 95, "spans": 80, "number": 75}
RATE = 5e-3


def full(tmp_path, **changes) -> Settings:
    return quick(tmp_path, **({"mode": "full", "epochs": 4, "lr": RATE, "batch_size": 16} | changes))


# ---------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(("family", "objective", "shape"), CASES)
def test_a_model_learns_what_a_word_tells(family, objective, shape, tokenizer, tmp_path):
    model = subject(family, objective, tokenizer)
    before = {name: tensor.clone() for name, tensor in model.engine.module.state_dict().items()}
    found = finetune(model, task(shape, 220), full(tmp_path, epochs=5, lr=1e-2))
    assert found.score > BEATS[shape]
    after = model.engine.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # a copy is trained


@pytest.mark.parametrize("shape", ["sentence", "tagging", "spans"])
def test_a_bilstm_on_top(shape, tokenizer, tmp_path):
    found = finetune(
        subject("bert", "mlm", tokenizer), task(shape), full(tmp_path, head="bilstm", hidden_size=16)
    )
    assert found.score > 80


@pytest.mark.parametrize(
    ("family", "objective", "pool"),
    [("elmo", "bilm", "mean"), ("elmo", "bilm", "concat"), ("gpt", "clm", "max"), ("gpt", "clm", "concat")],
)
def test_every_pooling_learns(family, objective, pool, tokenizer, tmp_path):
    settings = full(tmp_path, pool=pool, epochs=5, lr=1e-2)
    assert finetune(subject(family, objective, tokenizer), task("sentence", 220), settings).score > 75


def test_in_16_bits_too(tokenizer, tmp_path):
    model = subject("bert", "mlm", tokenizer, precision="bf16")
    assert finetune(model, task("sentence"), full(tmp_path, precision="bf16", epochs=8)).score > 80


def test_the_mean_of_a_words_pieces(tokenizer, tmp_path):
    found = finetune(subject("gpt", "clm", tokenizer), task("tagging"), full(tmp_path, pieces="mean"))
    assert found.score > 95


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_what_is_empty_or_unknown_is_no_obstacle(mode, tokenizer, tmp_path):
    data = task("tagging", 40)
    odd = [Tagged("a", (), ()), Tagged("b", ("", "cat"), ("OTHER", "NOUN")), Tagged("c", ("cat",), ("NEW",))]
    settings = quick(tmp_path, mode=mode, epochs=1, batch_size=1)
    changed = replace(data, train=[*odd, *data.train[:3]], stop=[*odd, *data.stop[:2]], scored=odd)
    found = finetune(subject("bert", "mlm", tokenizer), changed, settings)
    assert [len(tags) for tags in found.seeds[0].predictions] == [0, 2, 1]
    data = task("sentence", 40)
    odd = [Labelled("a", ("",), "no"), Labelled("b", ("the cat " * 60,), "yes")]
    changed = replace(data, train=[*odd, *data.train], scored=odd)
    found = finetune(subject("elmo", "bilm", tokenizer), changed, settings)
    assert found.counts["texts_cut"] == 2
    data = task("spans", 40)
    odd = [Question("a", "", "", (("dog", -1),)), Question("b", "dog " * 90, "the dog sat", (("dog", 4),))]
    changed = replace(data, train=[*odd, *data.train], scored=odd)
    found = finetune(subject("gpt", "clm", tokenizer), changed, settings)
    assert found.seeds[0].predictions[0] == ""
    assert found.counts["questions_without_a_place"] == 2
    with pytest.raises(LmzooError, match="has no item to score"):
        finetune(subject("gpt", "clm", tokenizer), replace(data, scored=[]), settings)
    with pytest.raises(LmzooError, match="anything to learn from"):
        finetune(subject("gpt", "clm", tokenizer), replace(data, train=odd[:1]), settings)


def test_a_rate_that_is_too_high_is_told_in_one_line(tokenizer, tmp_path):
    with pytest.raises(LmzooError, match="the loss is not finite; give a lower lr="):
        finetune(
            subject("bert", "mlm", tokenizer), task("number", 60), full(tmp_path, lr=1e30, gradient_clip=0)
        )


# ---------------------------------------------------------------------------------- contexts


def test_full_context_changes_a_causal_models_states_and_is_recorded(tokenizer, tmp_path):
    model = subject("gpt", "clm", tokenizer)
    other = with_context(model.engine, model.engine.backbone, "full")
    assert other.context is Context.FULL
    assert model.engine.context is model.engine.backbone.context is Context.PAST
    batch = model.engine.batch([tokenizer.encode_batch(["the cat sat on the mat"])[0]], _no_readings())
    with torch.no_grad():
        past, both = (engine.backbone(batch).states for engine in (model.engine, other))
    assert not torch.allclose(past[:, 0], both[:, 0], atol=1e-4)
    torch.testing.assert_close(
        with_context(model.engine, model.engine.backbone, "as_pretrained").backbone(batch).states, past
    )
    for mode in ("frozen", "full"):
        seen = {}
        for context in ("as_pretrained", "full"):
            settings = quick(tmp_path, mode=mode, context=context, epochs=2)
            found = finetune(model, task("tagging" if mode == "frozen" else "sentence", 60), settings)
            seen[context] = found.config["context"]
        assert seen["as_pretrained"] == {"pretrained": "past", "finetuned": "past"}
        assert seen["full"] == {"pretrained": "past", "finetuned": "full"}
    # a model that sees everything already stays as it is
    bert = subject("bert", "mlm", tokenizer).engine
    assert with_context(bert, bert.backbone, "full").context is Context.FULL


def _no_readings():
    from lmzoo.inference.reading import Readings

    return Readings([], [], [], [], None, [])


@pytest.mark.parametrize(("family", "objective"), [("elmo", "bilm"), ("elmo", "clm"), ("gpt", "bilm")])
def test_full_context_is_refused_where_a_model_cannot_give_it(family, objective, tokenizer, tmp_path):
    with pytest.raises(LmzooError, match="context=full needs one stack of attention"):
        finetune(subject(family, objective, tokenizer), task("sentence", 40), full(tmp_path, context="full"))


def test_a_word_learns_from_what_follows_with_full_context_alone(tokenizer, tmp_path):
    """Tags that depend on the next word: out of reach of a causal model."""
    random = np.random.default_rng(0)
    items = []
    for number in range(400):
        words = ["cat", "dog" if random.integers(2) else "mat"]
        items.append(Tagged(str(number), tuple(words), ("YES" if words[1] == "dog" else "NO", "NO")))
    config = TaskConfig(name="next", shape="tagging", metric="accuracy")
    data = TaskData(config, items[:280], items[280:340], items[340:], "valid", ["NO", "YES"])
    model = subject("gpt", "clm", tokenizer)
    past = finetune(model, data, full(tmp_path, epochs=8))
    both = finetune(model, data, full(tmp_path, epochs=8, context="full"))
    assert both.score > 95
    assert past.score < 90


# ---------------------------------------------------------------------------------- heads and windows


def test_the_pooler_that_a_model_was_trained_with_is_taken_over(tokenizer, tmp_path):
    model = subject("bert", "mlm_nsp", tokenizer)
    pooler = pretrained_pooler(model.engine)
    assert torch.equal(pooler.weight, model.engine.module.objective.pair_head.pooler.weight)
    assert pretrained_pooler(subject("bert", "mlm", tokenizer).engine) is None
    trial = Trial(model, task("pair", 40), full(tmp_path))
    learner = trial._full(model.engine, trained_pooler=True)
    assert torch.equal(learner.module.head.pooler.weight, pooler.weight)
    assert not torch.equal(
        trial._full(model.engine, trained_pooler=False).module.head.pooler.weight, pooler.weight
    )
    learner.module.head.pooler.weight.data.zero_()
    assert torch.equal(model.engine.module.objective.pair_head.pooler.weight, pooler.weight)


def test_how_a_text_becomes_one_vector_follows_from_what_was_trained():
    assert pool_of(Settings(mode="full"), Context.FULL) == "cls"
    assert pool_of(Settings(mode="full", context="full"), Context.PAST) == "last"
    assert pool_of(Settings(mode="full"), Context.APART) == "last"
    assert pool_of(Settings(mode="full", head="bilstm"), Context.FULL) == "last"
    assert pool_of(Settings(mode="full", recipe="ulmfit"), Context.PAST) == "concat"
    assert pool_of(Settings(mode="full", pool="mean"), Context.FULL) == "mean"


def test_pooling_by_hand():
    states = torch.arange(24.0).view(2, 3, 4)
    is_text = torch.tensor([[True, True, False], [True, True, True]])
    assert pooled(states, is_text, "cls", apart=False).tolist() == states[:, 0].tolist()
    assert pooled(states, is_text, "last", apart=False).tolist() == [
        states[0, 1].tolist(),
        states[1, 2].tolist(),
    ]
    assert pooled(states, is_text, "last", apart=True).tolist() == [[4, 5, 2, 3], [20, 21, 14, 15]]
    assert pooled(states, is_text, "mean", apart=False).tolist() == [[2, 3, 4, 5], [16, 17, 18, 19]]
    assert pooled(states, is_text, "max", apart=False).tolist() == [[4, 5, 6, 7], [20, 21, 22, 23]]
    layers = torch.stack([states, 2 * states], dim=1)
    for how in ("cls", "last", "mean", "max", "concat"):
        one = pooled(states, is_text, how, apart=True)
        both = pooled(layers, is_text, how, apart=True)
        torch.testing.assert_close(both, torch.stack([one, 2 * one], dim=1))


def test_ulmfits_head_takes_a_batch_of_one():
    head = TextHead(6, 2, "concat", 0.0).train()
    assert head(torch.randn(1, 6)).shape == (1, 2)
    head.eval()
    one, two = torch.randn(1, 6), torch.randn(1, 6)
    torch.testing.assert_close(head(torch.cat([one, two]))[:1], head(one))


def test_only_the_states_that_are_looked_at_are_computed_and_they_are_the_same(tokenizer, tmp_path):
    for family, objective in (("bert", "mlm"), ("gpt", "clm")):
        for shape in ("sentence", "tagging"):
            model = subject(family, objective, tokenizer)
            learner = Trial(model, task(shape, 40), full(tmp_path))._full(model.engine, trained_pooler=False)
            learner.module.eval()
            some = np.arange(7)
            with torch.no_grad():
                spared = learner.logits(some)
                learner._wanted = lambda *_: None
                torch.testing.assert_close(spared, learner.logits(some), rtol=0, atol=1e-5)


def test_a_batch_says_what_each_of_its_items_says_alone(tokenizer, tmp_path):
    for (family, objective), shape in itertools.product(FAMILIES, ("sentence", "pair", "tagging", "spans")):
        model = subject(family, objective, tokenizer)
        settings = full(tmp_path, max_length=14)
        trial = Trial(model, task(shape, 30, length=12), settings)
        learner = trial._full(model.engine, trained_pooler=False)
        learner.module.eval()
        some = learner.goal.judged(range(0, 8))
        with torch.no_grad():
            together = learner.logits(some)
            alone = torch.cat([learner.logits(np.array([number])) for number in some])
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
        if shape in ("tagging", "spans"):
            assert trial.framed.counts["windows"]


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_an_answer_is_found_in_a_later_window(mode, tokenizer, tmp_path):
    data = task("spans", 200, length=8)
    random = np.random.default_rng(1)
    long = []
    for number in range(30):
        words = list(random.choice(["the", "cat", "sat", "on", "mat"], 60))
        words[random.integers(40, 60)] = "dog"
        context = " ".join(words)
        long.append(Question(str(number), "the dog", context, (("dog", context.index("dog")),)))
    settings = quick(tmp_path, mode=mode, epochs=10, lr=2e-2 if mode == "frozen" else RATE)
    found = finetune(subject("bert", "mlm", tokenizer), replace(data, scored=long), settings)
    assert found.counts["texts_in_windows"] == 30
    assert found.score > 60


def test_the_best_span_is_that_of_all_pairs():
    torch.manual_seed(0)
    starts, ends = torch.randn(5, 12), torch.randn(5, 12)
    starts[:, :3] = ends[:, :3] = float("-inf")
    scores, first, last = best_spans(starts, ends, 4)
    for row in range(5):
        pairs = {
            (i, j): float(starts[row, i] + ends[row, j]) for i in range(12) for j in range(i, min(i + 4, 12))
        }
        best = max(pairs, key=pairs.__getitem__)
        assert (int(first[row]), int(last[row])) == best
        assert float(scores[row]) == pytest.approx(pairs[best])
    nothing, _, _ = best_spans(torch.full((1, 3), float("-inf")), torch.zeros(1, 3), 2)
    assert nothing.tolist() == [float("-inf")]


# ---------------------------------------------------------------------------------- schedules


def test_batches_hold_everything_once_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    made = list(batches(lengths, 8, 5))
    assert sorted(np.concatenate(made).tolist()) == list(range(1000))
    assert max(map(len, made)) == 8
    assert len(made) == 125
    assert np.mean([np.ptp(lengths[batch]) for batch in made]) < 20
    assert [b.tolist() for b in batches(lengths, 8, 5)] == [b.tolist() for b in made]
    assert [b.tolist() for b in batches(lengths, 8, 6)] != [b.tolist() for b in made]


def test_rates_over_steps():
    assert slanted_triangular(0.0) == pytest.approx(1 / 32)
    assert slanted_triangular(0.1) == pytest.approx(1.0)
    assert slanted_triangular(1.0) == pytest.approx(1 / 32)
    assert slanted_triangular(0.55) == pytest.approx((1 + 31 * 0.5) / 32)
    assert rate_factor("plain", 0.05, 0.1) == pytest.approx(0.5)
    assert rate_factor("plain", 0.55, 0.1) == pytest.approx(0.5)
    assert rate_factor("plain", 1.0, 0.1) == pytest.approx(0.0)


@pytest.mark.parametrize(("family", "objective"), [("elmo", "bilm"), ("gpt", "clm"), ("gpt", "bilm")])
def test_every_weight_is_in_one_group_the_top_first(family, objective, tokenizer):
    backbone = subject(family, objective, tokenizer).engine.backbone
    groups = depth_groups(backbone)
    assert len(groups) == 3
    ids = [id(p) for group in groups for p in group]
    assert sorted(ids) == sorted(id(p) for p in backbone.parameters())
    assert {id(p) for p in groups[-1]} == {id(p) for p in backbone.embedding.parameters()}
    stack = backbone.encoder.past if family == "elmo" else backbone.encoder
    top = stack[-1] if family == "elmo" else (stack.layers if objective == "clm" else stack.future.layers)[-1]
    assert {id(p) for p in top.parameters()} <= {id(p) for p in groups[0]}


def test_rates_over_layers():
    layers = [[torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))] for _ in range(4)]
    made = rated(layers, 1.0, discriminative=True, weight_decay=0.1)
    assert [group["peak"] for group in made] == pytest.approx(
        [1, 1, 1, 1, 1 / 2.6, 1 / 2.6, 1 / 2.6**2, 1 / 2.6**2]
    )
    assert [group["weight_decay"] for group in made] == [0.1, 0.0] * 4
    assert {group["peak"] for group in rated(layers, 1.0, discriminative=False, weight_decay=0.1)} == {1.0}
    assert [unfrozen(epoch, 4) for epoch in range(6)] == [1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize(("family", "objective"), [("elmo", "bilm"), ("gpt", "clm")])
def test_ulmfit_unfreezes_from_the_top(family, objective, tokenizer, tmp_path):
    model = subject(family, objective, tokenizer)
    settings = full(tmp_path, recipe="ulmfit", epochs=None)
    trial = Trial(model, task("sentence", 60), settings)
    assert trial.bounds.epochs == 4 + 3  # head, two layers, embedding
    learner = trial._full(model.engine, trained_pooler=False)
    for epoch in range(5):
        learner.begin(epoch)
        trained = [all(p.requires_grad for p in group) for group in learner.by_depth]
        assert trained == [depth <= epoch for depth in range(4)]
    found = finetune(model, task("sentence"), settings)
    assert found.score > 75
    assert found.variant == f"recipe_ulmfit-lr_{RATE:g}"


def test_one_epoch_of_ulmfit_moves_the_head_alone(tokenizer, tmp_path, monkeypatch):
    from lmzoo.tasks import trial

    model, seen = subject("gpt", "clm", tokenizer), []
    plain = trial.predict
    monkeypatch.setattr(trial, "predict", lambda learner, part: seen.append(learner) or plain(learner, part))
    finetune(model, task("sentence", 60), full(tmp_path, recipe="ulmfit", epochs=1))
    before, after = model.engine.backbone.state_dict(), seen[-1].module.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    finetune(model, task("sentence", 60), full(tmp_path, recipe="ulmfit", epochs=2))
    moved = {
        name
        for name, tensor in seen[-1].module.backbone.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved
    assert all(name.startswith(("encoder.layers.1.", "encoder.final_norm")) for name in moved)


def test_the_rate_follows_from_the_mode_and_the_width(tokenizer):
    model = subject("bert", "mlm", tokenizer).model
    assert default_rate(Settings(mode="full"), {}, replace(model, hidden_size=768)) == pytest.approx(5e-5)
    assert default_rate(Settings(mode="full"), {}, replace(model, hidden_size=128)) == pytest.approx(1e-3)
    assert default_rate(Settings(mode="full"), {"full": 7.0}, model) == 7.0
    assert default_rate(Settings(), {"full": 7.0}, model) < 0.1


# ---------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0 is too small; give at least 1"),
        ({"seeds": []}, "seeds=[]: give one or more"),
        ({"seeds": [1, 1]}, "none twice"),
        ({"dropout": 1.0}, "dropout=1.0 is out of range"),
        ({"lr": 1e-3, "lrs": [1e-3]}, "lr= and lrs= are both given"),
        ({"lr": 0.0}, "a learning rate of 0.0 is out of range"),
        ({"layers": "all"}, "layers=all is not known; choose one of: mix, top, static, each"),
        ({"mode": "full", "layers": "top"}, "layers=top goes with mode=frozen alone"),
        ({"mode": "full", "beside": "input"}, "beside=input goes with mode=frozen alone"),
        ({"mode": "full", "precision": "fp16"}, "precision=fp16 does not go with mode=full"),
        ({"recipe": "ulmfit"}, "recipe=ulmfit trains all layers; it goes with mode=full alone"),
        ({"beside": "output"}, "add head=bilstm"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(LmzooError) as refusal:
        check(Settings(**changes))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ("tagging", {"pool": "last"}, "pool=last makes one vector of a text"),
        ("spans", {"pool": "mean"}, "a task of spans has no use for it"),
        ("sentence", {"pieces": "mean"}, "pieces=mean makes one vector of a word"),
    ],
)
def test_what_a_task_has_no_use_for_is_refused(shape, changes, message, tokenizer, tmp_path):
    for mode in ("frozen", "full"):
        with pytest.raises(LmzooError, match=message):
            finetune(
                subject("bert", "mlm", tokenizer), task(shape, 20), quick(tmp_path, mode=mode, **changes)
            )


def test_a_result_is_named_by_what_is_not_at_its_default():
    assert variant_of(Settings()) == ""
    assert variant_of(Settings(layers="top", head="bilstm", dropout=0.3)) == "layers_top-head_bilstm"
    assert (
        variant_of(Settings(mode="full", context="full", lrs=[1e-4, 0.001]))
        == "context_full-lrs_0.0001_0.001"
    )


# ---------------------------------------------------------------------------------- the command


@pytest.fixture
def model_folder(tokenizer, tmp_path):
    model = subject("gpt", "clm", tokenizer)
    export_model(tmp_path / "model", model.engine.module, model.model, 32, tokenizer)
    return tmp_path / "model"


@pytest.fixture
def task_file(tmp_path):
    rows = [f"{item.texts[0]}\t{item.label}" for item in task("sentence", 60).train]
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    (tmp_path / "dev.tsv").write_text("text\tlabel\nthe dog sat\tyes\nthe cat\tno\n\tno\n")
    path = tmp_path / "dogs.yaml"
    path.write_text("shape: sentence\ntexts: [text]\nlabel: label\ntrain: train.tsv\nvalid: dev.tsv\n")
    return path


def test_the_command_writes_and_prints(model_folder, task_file, tmp_path, capsys):
    pytest.importorskip("sklearn")
    argv = [
        f"run={model_folder}",
        f"task={task_file}",
        "epochs=2",
        "seeds=[1,2]",
        f"cache_dir={tmp_path}/cache",
    ]
    command.main(argv)
    told = json.loads((model_folder / "finetune" / "dogs-frozen-epochs_2" / "result.json").read_text())
    assert told["items"] == 3
    assert told["model"]["objective"] == "clm"
    shown = capsys.readouterr().out
    assert "dogs · frozen · gpt clm · context past" in shown
    assert "random weights (1 seed)" in shown
    assert str(model_folder / "finetune" / "dogs-frozen-epochs_2" / "result.json") in shown
    command.main([*argv[:2], "mode=full", "context=full", "epochs=1", "seeds=1", f"to={tmp_path}/there"])
    told = json.loads((tmp_path / "there" / "result.json").read_text())
    assert told["config"]["context"] == {"pretrained": "past", "finetuned": "full"}
    assert len(told["seeds"]) == 1


def test_other_files_can_be_scored(model_folder, task_file, tmp_path, capsys):
    pytest.importorskip("sklearn")
    (tmp_path / "other.tsv").write_text("text\tlabel\nthe dog\tyes\n")
    argv = [
        f"run={model_folder}",
        f"task={task_file}",
        f"task.valid={tmp_path}/other.tsv",
        f"task.root={tmp_path}",
    ]
    command.main([*argv, "epochs=1", "seeds=1", "random_control=false", f"cache_dir={tmp_path}/cache"])
    assert "1 item of the valid part" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "finetune needs run= and task="),
        (["run=.", "task=dogz"], "task=dogz is not known"),
        (["run=nowhere/there", "task=sst2"], "run=nowhere/there is no folder here"),
        (["run=.", "task=sst2", "mode=half"], "mode=half is not known; choose one of: frozen, full"),
        (["run=.", "task=sst2", "task_root=x"], "task_root: there is no such key; did you mean task.root"),
        (["run=.", "task=sst2", "seeds=[]"], "seeds=[]"),
    ],
)
def test_the_command_refuses_in_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main(argv)
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_trained(
    model_folder, task_file, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit):
            command.main([f"run={model_folder}", f"task={task_file}", f"to={place}"])
        assert "is a file, so the result cannot lie in" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys; from lmzoo.finetune import main; main(['--help']);"
        "print([name for name in ('torch', 'lightning', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "lmzoo finetune run=" in done.stdout
    assert "task.root" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110


# ---------------------------------------------------------------------------------- a task's text


def test_a_tasks_text_holds_nothing_that_is_scored():
    train = [
        Labelled("1", ("a b", "c"), "x"),
        Labelled("2", ("a b", "scored"), "y"),
        Labelled("3", ("", "d "), "x"),
    ]
    stop = [Labelled("4", ("e", "c"), "x"), Labelled("5", ("also scored", "f"), "x")]
    scored = [Labelled("6", ("scored", " also scored"), "x")]
    config = TaskConfig(name="t", shape="pair")
    parts, left_out = task_documents(TaskData(config, train, stop, scored, "valid", ["x", "y"]))
    assert parts == {"train": ["a b", "c", "d"], "valid": ["e", "f"]}
    assert left_out == 2
    words = [Tagged("1", ("猫", "坐"), ("A", "B")), Tagged("2", ("a", "b"), ("A", "B"), "a  b")]
    data = TaskData(TaskConfig(name="t", shape="tagging", language="zh"), words, [], [], "valid", ["A", "B"])
    assert task_documents(data) == ({"train": ["猫坐", "a  b"]}, 0)
    questions = [Question("1", "q", "c", ()), Question("2", "r", "c", ())]
    data = TaskData(TaskConfig(name="t", shape="spans"), questions, [], [], "valid", [])
    assert task_documents(data)[0] == {"train": ["c", "q", "r"]}


def test_a_tasks_text_is_a_corpus(task_file, tmp_path):
    data = DataConfig(source="task", task=str(task_file))
    store = prepare(data, TokenizerConfig(vocab_size=270), tmp_path / "cache")
    texts = {}
    for name, part in store.parts.items():
        bounds = zip(part.documents[:-1], part.documents[1:], strict=True)
        texts[name] = {store.tokenizer.decode(part.tokens[a:b].tolist()) for a, b in bounds}
    assert set(texts) == {"train", "valid"}
    rows = {line.split("\t")[0] for line in (tmp_path / "train.tsv").read_text().splitlines()[1:]}
    assert texts["train"] | texts["valid"] == rows - {"the dog sat", "the cat"}
    assert prepare(data, TokenizerConfig(vocab_size=270), tmp_path / "cache").folder == store.folder
    described = open_source(data).describe()
    (tmp_path / "train.tsv").write_text("text\tlabel\na new one\tyes\nand two\tno\nand three\tno\n")
    assert open_source(data).describe() != described


def test_training_on_a_task_is_said_as_fine_tuning_says_it(task_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = compose(["task=dogs.yaml", "task.root=."])
    assert (config.data.source, config.data.task, config.data.root) == ("task", str(task_file), str(tmp_path))
    assert compose(["data=task", "task=dogs.yaml", "task.root=."]) == config
    assert compose(["data=task", "data.task=dogs.yaml", "data.root=."]) == config
    assert from_dict(to_dict(config)) == config
    assert compose(["task=agnews"]).data.task == "agnews"
    named = compose(["task=agnews", "task.train=train.tsv", "task.valid=there.tsv"]).data
    assert (named.train, named.valid) == (str(tmp_path / "train.tsv"), "there.tsv")
    for overrides, message in (
        (["data=task"], "data=task needs data.task="),
        (["data=stdlib", "task=agnews"], "data.task=agnews goes with data=task"),
        (
            ["data=task", "task=agnews", "data.column=body"],
            "data.column=body goes with data=text or data=hub",
        ),
        (["data=task", "task=agnews", "data.name=x"], "data.name=x goes with data=hub"),
    ):
        with pytest.raises(LmzooError, match=message):
            compose(overrides)
