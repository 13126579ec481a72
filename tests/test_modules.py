"""The contract of every module: gradients, swapping, micro-batches, ranks, overfitting, golden losses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import EVERY, LEGAL, SMALL, SPECIAL, VOCAB_SIZE, loss_of, random_batch, small_module
from lmzoo.backbone import Backbone, build_encoder
from lmzoo.hub.folder import export_model, initialize_from, load_exported
from lmzoo.ledger import Ledger
from lmzoo.modules import FAMILIES, MODULES, BertModule, ElmoModule, GptModule
from lmzoo.nn.char_cnn import characters_of
from lmzoo.nn.sizes import complete
from lmzoo.objectives.config import OBJECTIVES
from lmzoo.optim import build_optimizer, learning_rate_factor
from lmzoo.settings import BudgetConfig, OptimizerConfig, ScheduleConfig
from lmzoo.types import Context


@pytest.mark.parametrize(("family", "objective"), EVERY)
def test_a_gradient_reaches_every_parameter(family, objective):
    module = small_module(family, objective)
    loss_of(module, random_batch(objective)).backward()
    missing = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.parametrize(("family", "objective"), EVERY)
def test_one_batch_can_be_learned_by_heart(family, objective):
    module = small_module(family, objective)
    batch = random_batch(objective)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        optimizer.step()
    undecided = {"sgns": 6 * math.log(2), "rtd": math.log(VOCAB_SIZE) + 50 * math.log(2)}
    untrained = undecided.get(objective, math.log(VOCAB_SIZE))
    assert float(loss.detach()) < 0.25 * untrained


@pytest.mark.parametrize(("family", "objective"), EVERY)
def test_sums_of_micro_batches_are_the_sums_of_the_batch(family, objective):
    module = small_module(family, objective)
    batch = random_batch(objective, rows=6)
    whole = module(batch)
    parts = [module(part) for part in batch.split(2)]
    for name, term in whole.items():
        torch.testing.assert_close(term.total, sum(p[name].total for p in parts), atol=1e-3, rtol=1e-5)
        assert float(term.count) == sum(float(p[name].count) for p in parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_built_in_one_line_and_takes_any_legal_objective(family):
    own = {"elmo": "bilm", "lstm": "clm", "gpt": "clm", "bert": "mlm", "word2vec": "sgns"}[family]
    assert FAMILIES[family]().objective.config.name == own
    legal, context = ("sgns", Context.NONE) if family == "word2vec" else ("clm", Context.PAST)
    assert FAMILIES[family](legal, size="tiny").backbone.context is context


@pytest.mark.parametrize(("seat", "guest"), [("bert", "elmo"), ("elmo", "bert")])
def test_encoders_change_seats_under_one_embedding(seat, guest):
    """The masked LM's head takes two streams from a biLSTM and one from a Transformer; bilm two from both."""
    module = small_module(seat, "bilm")
    batch = random_batch("bilm")
    model = complete(SMALL[guest], size="tiny", pairs=False, seq_len=24)
    embedding = module.backbone.embedding
    module.backbone = Backbone(embedding, build_encoder(model, Context.APART))
    loss_of(module, batch).backward()
    assert embedding.tokens.weight.grad is not None
    assert module.objective.head.decoder is embedding.tokens.weight


def test_gpt_and_bert_are_one_transformer_to_the_last_weight():
    gpt, bert = GptModule(), BertModule()
    assert {n: p.shape for n, p in gpt.state_dict().items()} == {
        n: p.shape for n, p in bert.state_dict().items()
    }
    for (name, one), other in zip(gpt.named_parameters(), bert.parameters(), strict=True):
        assert torch.equal(one, other), name  # the same seed gives the same initial weights


def test_the_models_configs_differ_in_name_alone():
    assert replace(GptModule.model_type(name="gpt"), name="bert") == BertModule.model_type(name="bert")


GOLDEN = {
    ("elmo", "bilm"): [4.0781, 4.0169, 3.988, 4.0117, 4.0221],
    ("lstm", "clm"): [4.0328, 3.919, 4.07, 4.0592, 3.9285],
    ("gpt", "clm"): [4.0988, 4.0408, 3.9511, 4.0474, 3.99],
    ("bert", "mlm"): [4.0221, 4.3223, 4.0368, 3.9481, 3.9618],
    ("bert", "mlm_nsp"): [4.4557, 4.9207, 4.6569, 4.5055, 4.8937],
    ("word2vec", "sgns"): [4.1046, 4.0798, 4.0731, 4.0488, 4.0814],
    ("bert", "hybrid"): [4.0882, 4.0837, 3.9399, 4.0063, 3.9828],
    ("bert", "prefix"): [4.104, 3.9777, 3.7803, 3.886, 3.861],
    ("bert", "mlm_sop"): [4.4557, 4.9207, 4.6569, 4.5055, 4.8937],  # of the labels that mlm_nsp has here
    ("bert", "rtd"): [39.6583, 38.1848, 37.3875, 36.6746, 35.03],
    ("bert", "phases"): [4.0988, 4.0408, 4.053, 3.9642, 4.0494],  # two steps of clm, three of mlm
    ("elmo_2018", "bilm"): [3.9124, 3.9115, 3.8956, 3.8998, 3.8618],
    ("gpt_2018", "clm"): [3.9074, 3.8934, 3.9113, 3.8781, 3.8714],
    ("gpt2", "clm"): [3.9088, 3.8809, 3.8923, 3.8645, 3.8659],
    ("bert_2018", "mlm_nsp"): [4.6155, 4.6165, 4.6247, 4.5199, 4.5769],
    ("bert_2018", "mlm"): [3.9219, 3.9467, 3.9694, 3.9468, 3.9043],
}


def test_every_objective_has_golden_losses():
    assert {objective for _, objective in GOLDEN} == set(OBJECTIVES)
    assert all(pair in LEGAL for pair in GOLDEN)


@pytest.mark.parametrize(("family", "objective"), GOLDEN)
def test_golden_losses(family, objective):
    """Five steps from a fixed seed in fp32: a refactoring must not move them."""
    losses = five_losses(small_module(family, objective), objective)
    assert losses == pytest.approx(GOLDEN[family, objective], abs=2e-3)


def five_losses(module, objective: str) -> list[float]:
    """The losses of five steps, each of a batch of its own, at 0, 20, … 80 % of the budget."""
    optimizer = build_optimizer(module, OptimizerConfig(lr=0.01, weight_decay=0.1))
    losses = []
    for step in range(5):
        module.ledger.steps = step * module.budget.steps // 5
        batch = random_batch(objective, seed=step)
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(round(float(loss.detach()), 4))
    return losses


# -- optimizer, schedule, ledger


def test_matrices_decay_and_norms_and_biases_do_not():
    module = BertModule("mlm_nsp", model=SMALL["bert"], special=SPECIAL)
    decayed, others = build_optimizer(module, OptimizerConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() < 2 for p in others["params"])
    assert sum(len(g["params"]) for g in (decayed, others)) == len(list(module.parameters()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.5556, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.5868, 0.0]),
        ("inverse_sqrt", [0.0, 0.5, 1.0, 0.4472, 0.3162]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("wsd", [0.0, 0.5, 1.0, 1.0, 0.0]),
    ],
)
def test_schedules_end_with_the_budget(name, expected):
    schedule = ScheduleConfig(name=name, warmup=0.1, decay=0.2)
    factors = [learning_rate_factor(schedule, spent) for spent in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert factors == pytest.approx(expected, abs=1e-4)


def test_a_schedule_may_end_above_zero():
    assert learning_rate_factor(ScheduleConfig(final=0.1), 1.0) == pytest.approx(0.1)
    assert learning_rate_factor(
        ScheduleConfig(name="wsd", warmup=0.1, decay=0.2, final=0.5), 0.9
    ) == pytest.approx(0.75)
    assert learning_rate_factor(ScheduleConfig(warmup=0.0), 0.0) == 1.0


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        (BudgetConfig(steps=20), 0.5),
        (BudgetConfig(tokens=4000), 0.25),
        (BudgetConfig(epochs=2), 0.8),
        (BudgetConfig(minutes=1), 0.5),
        (BudgetConfig(flops=1e6), 0.3),
        (BudgetConfig(predicted_tokens=600), 0.25),
    ],
)
def test_the_ledger_tells_the_spent_share_of_any_budget(budget, spent):
    ledger = Ledger(10, 160, 1000, 150, 3e5, 30.0, rows_an_epoch=100)
    assert ledger.spent(budget) == pytest.approx(spent)
    restored = Ledger()
    restored.load_state_dict(ledger.state_dict())
    assert restored == ledger


@pytest.mark.parametrize(("family", "objective"), EVERY)
def test_flops_are_those_that_pytorch_counts(family, objective, monkeypatch):
    """Against torch's own counter, on a forward pass."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from lmzoo.nn import recurrence

    # the counter does not know products that write into a given tensor, nor a CPU's fused attention
    monkeypatch.setattr(recurrence, "SMALL_PRODUCT", 0)
    module = small_module(family, objective).eval()
    batch = random_batch(objective)
    task = module.prepare(batch)
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        torch.autocast("cpu", torch.bfloat16),
        FlopCounterMode(display=False) as counter,
    ):
        read = module.objective.draft(task, module.backbone.embedding)
        module.objective.scores(module.backbone(read.batch, wanted=task.wanted), read)
    rows, length = batch.tokens.shape
    asked = module.objective
    each = module.backbone.flops_per_token(length) + asked.flops_per_token(length)
    ours = rows * length * each + asked.flops(task.counts(), rows)
    ours += asked.flops_without_gradient(task.counts())
    if task.wanted is not None:
        ours -= (rows * length - len(task.wanted)) * module.backbone.flops_spared()
    embedded = [task.batch, read.batch][: asked.readings]
    ours += sum(len(b.tokens.unique()) for b in embedded) * module.backbone.flops_per_word()
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


# -- export


@pytest.mark.parametrize(("family", "objective"), EVERY)
def test_an_exported_model_comes_back_the_same(family, objective, tmp_path, tokenizer):
    special = tokenizer.special
    model = complete(SMALL[family], size=None, pairs=objective == "mlm_nsp", seq_len=24)
    characters = None
    if model.is_spelt:
        characters = characters_of(tokenizer.spellings(), special, model.characters_per_token)
    module = MODULES[family](objective, model=model, special=special, characters=characters)
    export_model(tmp_path / "model", module, model, 24, tokenizer)
    loaded = load_exported(tmp_path)
    assert loaded.description.model == model
    assert loaded.tokenizer.fingerprint() == tokenizer.fingerprint()
    there = loaded.module.state_dict()
    assert list(there) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, there[name]), name
    batch = random_batch(objective)
    torch.testing.assert_close(loss_of(module.eval(), batch), loss_of(loaded.module, batch))


def test_a_run_starts_from_the_weights_of_another(tmp_path, tokenizer):
    model = complete(SMALL["bert"], size=None, pairs=False, seq_len=24)
    trained = BertModule("mlm", model=model, special=tokenizer.special, seed=1)
    export_model(tmp_path, trained, model, 24, tokenizer)
    fresh = GptModule("clm", model=SMALL["gpt"], special=tokenizer.special, seed=2)
    initialize_from(fresh, tmp_path, tokenizer)
    for (name, one), other in zip(
        trained.backbone.named_parameters(), fresh.backbone.parameters(), strict=True
    ):
        assert torch.equal(one, other), name


def test_weights_of_another_architecture_are_refused(tmp_path, tokenizer):
    from lmzoo.errors import LmzooError

    model = complete(SMALL["bert"], size="tiny", pairs=False, seq_len=24)
    export_model(tmp_path, BertModule(model=model, special=tokenizer.special), model, 24, tokenizer)
    with pytest.raises(LmzooError, match="another architecture"):
        initialize_from(ElmoModule(model=SMALL["elmo"], special=tokenizer.special), tmp_path, tokenizer)
    Path(tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(LmzooError, match="damaged"):
        initialize_from(BertModule(model=SMALL["bert"], special=tokenizer.special), tmp_path, tokenizer)
    with pytest.raises(LmzooError, match="damaged"):
        load_exported(tmp_path)


@pytest.mark.parametrize(("family", "objective"), EVERY)
def test_a_model_cast_whole_to_bf16_is_nearly_the_same(family, objective):
    """As `from_pretrained(…, dtype=torch.bfloat16)` casts it, without autocast."""
    module, batch = small_module(family, objective).eval(), random_batch(objective)
    with torch.no_grad():
        want = module.backbone(batch).streams
        got = module.to(torch.bfloat16).backbone(batch).streams
    for one, other in zip(want, got, strict=True):
        assert other.dtype == torch.bfloat16
        torch.testing.assert_close(other.float(), one, atol=0.15, rtol=0.1)
