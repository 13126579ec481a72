"""The adaptive softmax: `objective.loss=adaptive`."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from builders import SMALL, SPECIAL, VOCAB_SIZE, loss_of, random_batch
from lmzoo.config import compose
from lmzoo.errors import LmzooError
from lmzoo.hub.folder import initialize_from, load_exported
from lmzoo.hub.forms import native_form
from lmzoo.modules import BertModule, ElmoModule, GptModule
from lmzoo.nn.adaptive import AdaptiveHead
from lmzoo.nn.config import TransformerConfig
from lmzoo.nn.embedding import Embedding
from lmzoo.objectives.config import BilmConfig, ClmConfig, HybridConfig, MlmConfig, MlmNspConfig, with_cutoffs
from small_runs import SMALLEST, run_smallest, start

ROWS, WIDTH, WORDS = 1100, 16, 300
CUTOFFS = (20, 80)


def shaken(
    words: int = WORDS, cutoffs: tuple[int, ...] = CUTOFFS, width: int = WIDTH, **changes
) -> AdaptiveHead:
    """A head whose every weight is random, its biases too."""
    torch.manual_seed(0)
    model = TransformerConfig(hidden_size=width, num_segments=0, **({"head": "plain"} | changes))
    head = AdaptiveHead(model, Embedding(model, words), cutoffs=cutoffs)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
    return head


def asked(words: int = WORDS) -> tuple[torch.Tensor, torch.Tensor]:
    """States, and targets of which the low numbers are frequent."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    return torch.randn(ROWS, WIDTH, generator=generator).requires_grad_(), (words**draws - 1).long()


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_that_of_torch(bias):
    head = shaken(decoder_bias=bias, tied=False)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(WIDTH, WORDS, list(CUTOFFS), div_value=4.0, head_bias=bias)
    pairs = [(theirs.head.weight[:20], head.decoder), (theirs.head.weight[20:], head.cluster_rows)]
    for cluster, (project, out) in zip(head.clusters, theirs.tail, strict=True):  # type: ignore[misc]
        pairs += [(project.weight, cluster.project.weight), (out.weight, cluster.decoder)]
    if bias:
        pairs.append((theirs.head.bias, head.decoder_bias))
    with torch.no_grad():
        for there, here in pairs:
            assert there.shape == here.shape
            there.copy_(here)
    x, targets = asked()
    loss, expected = head.loss(x, targets), theirs(x, targets)
    assert float(loss.detach()) == pytest.approx(float(expected.loss.detach()) * ROWS, rel=1e-5)
    (grad,) = torch.autograd.grad(loss / ROWS, x, retain_graph=True)
    (grad_there,) = torch.autograd.grad(expected.loss, x, retain_graph=True)
    torch.testing.assert_close(grad, grad_there, rtol=1e-5, atol=1e-6)
    (loss / ROWS).backward()
    expected.loss.backward()
    torch.testing.assert_close(head.decoder.grad, theirs.head.weight.grad[:20], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.cluster_rows.grad, theirs.head.weight.grad[20:], rtol=1e-4, atol=1e-6)
    for cluster, (project, out) in zip(head.clusters, theirs.tail, strict=True):  # type: ignore[misc]
        torch.testing.assert_close(cluster.project.weight.grad, project.weight.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(cluster.decoder.grad, out.weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.logits(x), theirs.log_prob(x), rtol=1e-5, atol=1e-5)
    _, hits = head.scores(x, targets)
    assert torch.equal(hits, theirs.predict(x) == targets)


def test_an_adaptive_softmax_by_hand():
    """Two frequent words and a cluster of three, of width 1: the first softmax 1 : 2 : 5, the second 1 : 3 : 4."""
    head = shaken(words=5, cutoffs=(2,), width=4, tied=False)
    with torch.no_grad():
        head.decoder.copy_(torch.tensor([1.0, 2.0]).log()[:, None] * torch.tensor([[1.0, 0, 0, 0]]))
        head.cluster_rows.copy_(math.log(5) * torch.tensor([[1.0, 0, 0, 0]]))
        (cluster,) = head.clusters
        cluster.project.weight.copy_(torch.tensor([[0.0, 1, 0, 0]]))
        cluster.decoder.copy_(torch.tensor([1.0, 3.0, 4.0]).log()[:, None])
    x = torch.tensor([[1.0, 1.0, 7.0, 7.0]])
    expected = [1 / 8, 2 / 8, 5 / 64, 15 / 64, 20 / 64]
    assert head.logits(x)[0].exp().tolist() == pytest.approx(expected, rel=1e-6)
    for target, chance in enumerate(expected):
        loss = head.loss(x, torch.tensor([target]))
        assert float(loss.detach()) == pytest.approx(-math.log(chance), rel=1e-5)
    # the cluster is likelier than any word of the short list, and its best word is the likeliest of all
    _, hits = head.scores(x.expand(5, 4), torch.arange(5))
    assert hits is not None
    assert hits.tolist() == [False, False, False, False, True]
    with torch.no_grad():
        cluster.decoder.zero_()  # a third of 5/8 each, and less than 2/8
    _, hits = head.scores(x.expand(5, 4), torch.arange(5))
    assert hits is not None
    assert hits.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("tied", [True, False])
def test_all_readings_of_the_head_are_of_one_distribution(tied):
    head = shaken(tied=tied, head="dense", decoder_bias=True)
    x, targets = asked()
    with torch.no_grad():
        logits = head.logits(x)
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(ROWS), rtol=1e-5, atol=0)
        nats, hits = head.scores(x, targets)
        torch.testing.assert_close(
            nats, F.cross_entropy(logits, targets, reduction="none"), rtol=1e-5, atol=1e-5
        )
        assert hits is not None
        assert torch.equal(hits, logits.argmax(-1) == targets)
        assert 0 < int(hits.sum()) < ROWS
        alone, none = head.scores(x, targets, guesses=False)
        assert none is None
        assert torch.equal(alone, nats)
        assert float(head.loss(x, targets)) == pytest.approx(float(nats.sum()), rel=1e-5)
        ids = torch.stack([targets, targets.flip(0)], dim=1)
        torch.testing.assert_close(head.logits_of(x, ids), logits.gather(1, ids))
        drawn = head.sample(x, torch.full((ROWS,), 0.5, dtype=torch.float64))
        cumulated = logits.double().softmax(-1).cumsum(-1)
        medians = (cumulated <= 0.5).sum(-1)
        assert float((drawn == medians).float().mean()) > 0.99  # but where rounding decides
        assert not len(head.loss(x[:0], targets[:0]).shape)
        # rows of any leading shape, as an exported model's classes ask them
        torch.testing.assert_close(head.logits(x.view(11, 100, WIDTH)).view_as(logits), logits)


CASES = [
    (GptModule, "gpt", ClmConfig),
    (ElmoModule, "elmo", BilmConfig),
    (BertModule, "bert", MlmConfig),
    (BertModule, "bert", partial(MlmConfig, span_boundary=True)),
    (BertModule, "bert", MlmNspConfig),
    (BertModule, "bert", HybridConfig),
]


@pytest.mark.parametrize(("module_type", "family", "objective"), CASES)
def test_a_model_is_trained_and_measured_by_the_same_head(module_type, family, objective):
    """-log p of the training's tokens is what validation tells; every weight learns; the short list is the table's."""
    module = module_type(objective(loss="adaptive", cutoffs=[10, 30]), model=SMALL[family], special=SPECIAL)
    head = module.objective.head
    assert isinstance(head, AdaptiveHead)
    assert head.decoder is module.backbone.embedding.tokens.weight
    assert module.objective.token_loss.name == "adaptive"
    batch = random_batch(objective().name)
    loss_of(module, batch).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        task = module.objective.prepare(batch, 3, training=False)
        trained, (measured, _) = module.terms(task), module.measured(task)
    for part, term in measured.items():
        assert float(term.total) == pytest.approx(float(trained[part].total), rel=1e-5)


def test_operations_are_those_of_the_text_s_mean():
    module = GptModule(ClmConfig(loss="adaptive", cutoffs=[10, 30]), model=SMALL["gpt"], special=SPECIAL)
    head = module.objective.head
    # clusters of 20 and 20 words, of width 4 and 1
    first, second = 2 * (16 * 4 + 20 * 4), 2 * (16 * 1 + 20 * 1)
    short = 2 * (16 * 16 + 12 * 16)
    assert head.flops_per_prediction() == short + first + second
    counts = torch.ones(VOCAB_SIZE, dtype=torch.long)
    counts[0] = 31  # 40 of 80, then 20 and 20
    told = GptModule(
        ClmConfig(loss="adaptive", cutoffs=[10, 30]), model=SMALL["gpt"], special=SPECIAL, unigrams=counts
    )
    assert told.objective.flops({"clm": 3}, 1) == 3 * (short + (first + second) // 4)


def test_cutoffs_are_shares_of_the_vocabulary_unless_given():
    def filled(vocab_size: int, **changes):
        return with_cutoffs(ClmConfig(loss="adaptive", **changes), vocab_size).cutoffs  # type: ignore[attr-defined]

    assert filled(267735) == [20080, 60240]
    assert filled(6) == [1, 2]
    assert filled(50, cutoffs=[7]) == [7]
    assert with_cutoffs(ClmConfig(), 50).cutoffs is None  # type: ignore[attr-defined]
    module = GptModule(ClmConfig(loss="adaptive"), model=SMALL["gpt"], special=SPECIAL)
    assert module.objective.config.cutoffs == [3, 11]  # type: ignore[union-attr]
    for wrong in ([], [0, 5], [5, 5], [9, 5], [5, 50]):
        with pytest.raises(
            LmzooError, match=r"do not ascend between 0 and the 50 ids of the vocabulary; give"
        ):
            filled(50, cutoffs=wrong)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["tokenizer=bpe"], "objective.loss=adaptive needs ids in the order of their frequency"),
        (["objective.label_smoothing=0.1"], "does not go with objective.loss=adaptive"),
        (
            ["objective.cutoffs=[10,5]"],
            r"objective.cutoffs=\[10,5\] do not ascend between 0 and the 8192 ids",
        ),
        (["objective.cutoffs=[9000]"], r"objective.cutoffs=\[9000\] do not ascend"),
        (
            ["objective.cutoffs=[9,5]", "tokenizer.file=x"],
            "do not ascend between 0 and the size of the vocabulary",
        ),
        (["objective.tail_divisor=0.5"], r"objective.tail_divisor=0.5"),
        (["objective.tail_divisor=400"], r"objective.tail_divisor=400"),
        (["objective.num_samples=5"], "objective.num_samples=5 goes with objective.loss=sampled"),
        (["objective.loss=full", "objective.cutoffs=[5]"], "goes with objective.loss=adaptive; add it"),
        (["objective.loss=sampled", "objective.tail_divisor=2"], "goes with objective.loss=adaptive; add it"),
        (["objective=rtd", "model=bert"], "objective=rtd knows the plain cross-entropy alone"),
    ],
)
def test_what_does_not_go_with_it_is_refused(overrides, reason):
    given = ["model=gpt", "data=stdlib", "tokenizer=word", "objective.loss=adaptive"]
    names = {entry.split("=")[0] for entry in overrides}
    composed = [entry for entry in given if entry.split("=")[0] not in names] + overrides
    with pytest.raises(LmzooError, match=reason) as told:
        compose(composed)
    assert "\n" not in str(told.value)


def test_transformers_has_none():
    for family, objective in (("gpt", ClmConfig(loss="adaptive")), ("bert", MlmConfig(loss="adaptive"))):
        form, reason = native_form(SMALL[family], objective, objective.contexts[0])
        assert form is None
        assert reason.startswith("objective.loss=adaptive has no equivalent there")


def test_a_run_is_logged_read_back_and_gone_on_from(corpus, tmp_path):
    given = [*corpus, "tokenizer=word", "objective.loss=adaptive", "budget.steps=3", "logger.every_steps=1"]
    record = run_smallest(tmp_path / "first", "gpt", *given, "checkpoint.every_steps=2")
    header = (tmp_path / "first" / "history.csv").read_text().splitlines()[0].split(",")
    assert {"train/clm_loss_adaptive", "train/loss_adaptive", "valid/clm_loss"} <= set(header)
    assert "train/loss" not in header
    whole = torch.load(tmp_path / "first" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    loaded = load_exported(tmp_path / "first")
    head = loaded.module.objective.head
    assert isinstance(head, AdaptiveHead)
    assert head.decoder is loaded.module.backbone.embedding.tokens.weight
    for name, tensor in loaded.module.state_dict().items():
        assert torch.equal(tensor, whole[name]), name
    # the ledger counts the mean of the text, the model at hand the most, for it does not know the text
    ledger = record["ledger"]
    places = 3 * 3 * 4 * 32 * loaded.module.backbone.flops_per_token(32)
    most = 3 * ledger["predicted_tokens"] * head.flops_per_prediction()
    assert 0.3 * most < ledger["flops"] - places < 0.9 * most
    settings = [entry for entry in SMALLEST if not entry.startswith(("model.", "tokenizer."))]
    brought = compose(
        [f"init_from={tmp_path / 'first'}", *settings, *corpus, "budget.steps=1", "optimizer.lr=1e-30"]
    )
    assert (brought.tokenizer.name, brought.objective.loss) == ("word", "adaptive")  # type: ignore[attr-defined]
    assert tuple(brought.objective.cutoffs) == head.cutoffs  # type: ignore[attr-defined]
    named = compose([f"init_from={tmp_path / 'first'}", "model=gpt", *settings, *corpus])
    assert named.objective == brought.objective
    with pytest.raises(LmzooError, match=r"give objective\.loss=adaptive, or another objective") as caught:
        initialize_from(
            GptModule(ClmConfig(), model=SMALL["gpt"], special=SPECIAL),
            tmp_path / "first",
            loaded.tokenizer,
        )
    assert "\n" not in str(caught.value)
    second = start(tmp_path / "second", brought)
    assert second["valid"]["loss"] == pytest.approx(record["valid"]["loss"], rel=1e-5)
