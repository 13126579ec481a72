"""EleutherAI's harness with our models: numbers against loops, and BLiMP against our own scorer."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from builders import batch_of
from inference_models import language_model
from lmzoo.errors import LmzooError
from lmzoo.hub.folder import export_model
from lmzoo.types import Context
from lmzoo.yardsticks.base import Asked

FAMILIES = [("gpt", "clm"), ("elmo", "bilm"), ("bert", "mlm"), ("bert", "mlm_nsp")]
CONTEXTS = [
    ("The cat sat", " on the mat."),
    ("The cat ", "sat"),
    ("the dog", ""),
    ("the do", "g and"),
    ("猫", "坐在"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is started from here; in this process, what the libraries read when they were imported."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def harness():
    pytest.importorskip("lm_eval", reason="the harness is not installed: pip install 'lmzoo[eval]'")
    from lmzoo.yardsticks import harness

    return harness


def requests(pairs) -> list:
    """The harness's own requests."""
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)
    ]


def token_nats(model, text: str, part: str) -> list[float]:
    """Nats of every token of a text, each from a row of its own in which what must not be seen is another."""
    special = model.engine.special
    ids = model.engine.tokenizer.encode_batch([text])[0]
    row = [special.cls, *ids, *([special.sep] if model.engine.context is not Context.PAST else [])]
    found = []
    for place, token in enumerate(ids, 1):
        if part in ("clm", "forward"):
            seen, at = [*row[:place], *[special.unk] * (len(row) - place)], place - 1
        elif part == "backward":
            seen, at = [*[special.unk] * (place + 1), *row[place + 1 :]], place + 1
        else:
            seen, at = [*row[:place], special.mask, *row[place + 1 :]], place
        with torch.no_grad():
            hidden = model.engine.backbone(batch_of([[seen]], len(seen)))
            states = model.engine.objective.stream(hidden, part)[0, at]
            logits = model.engine.objective.head.logits(states[None])[0]
        found.append(float(logits.log_softmax(-1)[token]))
    return found


def first_of(model, context: str, text: str) -> int:
    """Number of the first token that holds something after the context, blanks at its end aside."""
    places = model.engine.tokenizer.encode_with_offsets([text])[0][1]
    return next((i for i, (_, end) in enumerate(places) if end > len(context.rstrip())), len(places))


# ------------------------------------------------------------------------------ likelihoods


@pytest.mark.parametrize(("family", "objective"), FAMILIES)
@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_a_continuation_after_its_context_as_loops_have_it(
    harness, family, objective, batch_tokens, tokenizer
):
    model = language_model(family, objective, tokenizer, sharpness=3)
    made = harness.HarnessModel(model=model, batch_tokens=batch_tokens)
    answers = made.loglikelihood(requests(CONTEXTS))
    for (context, continuation), (nats, _) in zip(CONTEXTS, answers, strict=True):
        text = context + continuation
        first = first_of(model, context, text)
        if objective == "bilm":
            forward = sum(token_nats(model, text, "forward")[first:])
            backward = sum(token_nats(model, text, "backward"))
            backward -= sum(token_nats(model, context.rstrip(), "backward"))
            expected = (forward + backward) / 2
        else:
            part = "clm" if objective == "clm" else "mlm"
            expected = sum(token_nats(model, text, part)[first:])
        assert nats == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("family", "objective"), FAMILIES)
def test_a_text_after_nothing_is_scored_as_our_own_command_does(harness, family, objective, tokenizer):
    texts = ["The cat sat on the mat.", "the dog", "猫坐在垫子上。"]
    model = language_model(family, objective, tokenizer, sharpness=3)
    answers = harness.HarnessModel(model=model).loglikelihood(requests([("", f" {text}") for text in texts]))
    expected = model.score(texts, ending=objective in ("clm", "bilm"))
    assert [nats for nats, _ in answers] == pytest.approx(expected, rel=1e-6)
    # the blank that the harness puts between nothing and a text is no part of it; a second one would be
    bare = harness.HarnessModel(model=model).loglikelihood(requests([("", text) for text in texts]))
    assert bare == answers


def test_a_causal_continuation_is_what_the_text_gains(harness, tokenizer):
    model = language_model("gpt", "clm", tokenizer, sharpness=3)
    pairs = [("The cat sat", " on the mat."), ("the dog", " sat on the cat and")]
    answers = harness.HarnessModel(model=model).loglikelihood(requests(pairs))
    for (context, continuation), (nats, _) in zip(pairs, answers, strict=True):
        whole, part = model.score([context + continuation, context])
        assert nats == pytest.approx(whole - part, rel=1e-4)


def test_what_a_causal_model_would_say_is_greedy(harness, tokenizer):
    model = language_model("gpt", "clm", tokenizer, sharpness=3)
    made = harness.HarnessModel(model=model)
    checked = 0
    for context in ("The cat sat", "the dog and", "on the mat", "and the cat", "dog"):
        said = model.generate(context, 4)
        ids = tokenizer.encode_batch([context])[0]
        if said.finish == "end" or tokenizer.encode_batch([context + said.text])[0] != [*ids, *said.ids]:
            continue
        checked += 1
        other = said.text[:-1] + ("x" if said.text[-1] != "x" else "y")
        (_, greedy), (_, not_greedy) = made.loglikelihood(requests([(context, said.text), (context, other)]))
        assert greedy
        assert not not_greedy
    assert checked


def test_the_beginning_of_a_context_is_left_off_where_the_positions_end(harness, tokenizer, capsys):
    model = language_model("gpt_2018", "clm", tokenizer, sharpness=15, max_positions=24)
    made = harness.HarnessModel(model=model)
    context, continuation = "the cat and the dog sat on the mat and " * 4 + "the cat", " sat on"
    ((nats, _),) = made.loglikelihood(requests([(context, continuation)]))
    assert "1 texts were longer" in " ".join(capsys.readouterr().err.split())
    room = model.engine.reader.max_tokens
    text = context + continuation
    starts = [start for start, _ in tokenizer.encode_with_offsets([text])[0][1]]
    possible = []
    for start in starts:
        if len(tokenizer.encode_batch([text[start:]])[0]) <= room:
            possible.append(
                sum(token_nats(model, text[start:], "clm")[first_of(model, context[start:], text[start:]) :])
            )
    assert nats == pytest.approx(possible[0], rel=1e-4)
    with pytest.raises(LmzooError, match=r"the continuation .* has more than"):
        made.loglikelihood(requests([("the", " cat and the dog sat" * 20)]))


# ------------------------------------------------------------------------------ running text, generation


@pytest.mark.parametrize(("family", "objective"), [("gpt", "clm"), ("elmo", "bilm")])
def test_running_text_is_cut_into_windows_and_every_token_counts_once(harness, family, objective, tokenizer):
    model = language_model(family, objective, tokenizer, sharpness=2)
    made = harness.HarnessModel(model=model, seq_len=16)
    texts = ["The cat sat on the mat, and the dog sat on the cat. 猫坐在垫子上。" * 3, "the", "", "🙂" * 30]
    found = made.loglikelihood_rolling(requests([(text,) for text in texts]))
    for text, nats in zip(texts, found, strict=True):
        windows = list(made._continuations.windows(text, made._window))
        assert "".join(windows) == text
        lengths = [len(ids) for ids in tokenizer.encode_batch(windows)]
        assert max(lengths, default=0) <= 16 - model.engine.opening - model.engine.ends
        assert all(length >= 6 for length in lengths[:-1])
        assert nats == pytest.approx(sum(model.score(windows)), rel=1e-6)
        if " " in text:  # windows end between words
            assert all(
                window[-1].isspace() or after[0].isspace()
                for window, after in itertools.pairwise(windows[:3])
            )
    whole = harness.HarnessModel(model=model, seq_len=1000)
    assert whole.loglikelihood_rolling(requests([(texts[0],)])) == pytest.approx(
        model.score(texts[:1]), rel=1e-6
    )


def test_a_masked_model_has_no_likelihood_of_running_text(harness, tokenizer):
    made = harness.HarnessModel(model=language_model("bert", "mlm", tokenizer))
    with pytest.raises(LmzooError, match="yardstick=pseudo_likelihood"):
        made.loglikelihood_rolling(requests([("the cat",)]))


def test_generation_is_ours(harness, tokenizer):
    model = language_model("gpt", "clm", tokenizer, sharpness=3)
    made = harness.HarnessModel(model=model)
    greedy = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False, "temperature": 0.0}
    drawn = {"until": "t", "max_gen_toks": 8, "do_sample": True, "temperature": 0.7, "top_k": 20}
    asked = [("the cat", greedy), ("The dog", drawn), ("a", greedy)]
    found = made.generate_until(requests(asked))
    expected = [each.text for each in model.generate(["the cat", "a"], 6)]
    assert [found[0], found[2]] == expected
    assert (
        found[1]
        == model.generate(["The dog"], 8, do_sample=True, temperature=0.7, top_k=20, stop=["t"])[0].text
    )
    with pytest.raises(LmzooError, match="generation_kwargs: num_beams is not known"):
        made.generate_until(requests([("a", {"num_beams": 3})]))
    masked = harness.HarnessModel(model=language_model("bert", "mlm", tokenizer))
    with pytest.raises(LmzooError, match="objective=mlm cannot generate"):
        masked.generate_until(requests([("a", greedy)]))


# ------------------------------------------------------------------------------ in the harness


def evaluated(harness, model, path) -> tuple[float, list[float]]:
    """Accuracy in per cent, and every pair's outcome, of the harness's own evaluation."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=harness.HarnessModel(model=model),
        tasks=[harness.pairs_task(path)],
        task_manager=TaskManager(include_defaults=False),  # whose index takes seconds
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["minimal_pairs"], key=lambda sample: sample["doc_id"])
    return 100 * results["results"]["minimal_pairs"]["acc,none"], [sample["acc"] for sample in samples]


def write_pairs(path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(("family", "objective"), FAMILIES)
def test_minimal_pairs_come_out_as_with_our_own_scorer(harness, family, objective, tokenizer, tmp_path):
    from lmzoo.yardsticks.minimal_pairs import minimal_pairs

    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        words = random.choice(
            ["the", "cat", "dog", "sat", "on", "mat", "and"], random.integers(3, 8)
        ).tolist()
        swapped = [*words[1:], words[0]]
        rows.append(
            {
                "sentence_good": " ".join(words).capitalize() + ".",
                "sentence_bad": " ".join(swapped).capitalize() + "!",
                "UID": f"paradigm_{number % 3}",
                "linguistics_term": "order",
                "pairID": str(number),
            }
        )
    write_pairs(tmp_path / "pairs.jsonl.gz", rows)
    model = language_model(family, objective, tokenizer, sharpness=3)
    accuracy, outcomes = evaluated(harness, model, tmp_path / "pairs.jsonl.gz")
    ours = minimal_pairs(model, Asked(pairs=tmp_path / "pairs.jsonl.gz"))
    assert outcomes == [float(item["correct"]) for item in ours.items]
    assert accuracy == pytest.approx(ours.figure)
    assert 20 < accuracy < 80


@pytest.mark.parametrize(("family", "objective"), FAMILIES[:3])
def test_blimp_comes_out_as_with_our_own_scorer(harness, family, objective, tokenizer, tmp_path, shared_data):
    from lmzoo.yardsticks.minimal_pairs import minimal_pairs

    count = 1 if objective == "mlm" else 5
    taken: dict[str, int] = {}
    path = tmp_path / "blimp.jsonl.gz"
    with gzip.open(shared_data / "zeroshot" / "blimp.jsonl.gz", "rb") as lines, gzip.open(path, "wb") as file:
        for line in lines:
            name = json.loads(line)["UID"]
            taken[name] = taken.get(name, 0) + 1
            if taken[name] <= count:
                file.write(line)
    model = language_model(family, objective, tokenizer, sharpness=3)
    accuracy, outcomes = evaluated(harness, model, path)
    ours = minimal_pairs(model, Asked(pairs=path))
    assert len(outcomes) == count * 67
    assert outcomes == [float(item["correct"]) for item in ours.items]
    assert accuracy == pytest.approx(ours.figure)


def test_it_is_known_by_name_and_opens_a_folder(harness, tokenizer, tmp_path):
    from lm_eval.api.registry import get_model

    made = language_model("gpt", "clm", tokenizer, sharpness=3)
    export_model(tmp_path / "model", made.engine.module, made.engine.backbone.encoder.config, 64, tokenizer)
    kind = get_model("lmzoo")
    assert kind is harness.HarnessModel
    opened = kind.create_from_arg_string(f"run={tmp_path / 'model'}", {"batch_size": 4, "device": "cuda:0"})
    assert opened.model.engine.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert opened._window == 63
    pairs = requests([("The cat", " sat"), ("", " the mat")])
    expected = harness.HarnessModel(model=made).loglikelihood(pairs)
    assert [nats for nats, _ in opened.loglikelihood(pairs)] == pytest.approx(
        [n for n, _ in expected], rel=1e-5
    )
    with pytest.raises(LmzooError, match="run=FOLDER"):
        kind.create_from_arg_string("", {})


def test_without_the_package_it_says_what_to_install():
    code = """
import runpy, sys
from lmzoo.errors import LmzooError
sys.modules["lm_eval"] = None
try:
    import lmzoo.yardsticks.harness
except LmzooError as error:
    print(error)
runpy.run_module("lmzoo.yardsticks.harness", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = "the evaluation harness needs the extra eval: pip install 'lmzoo[eval]'"
    assert done.stdout.strip() == line
    assert done.stderr.strip() == f"error: {line}"
    assert done.returncode == 1
