"""Our own fill_mask, generate and embed against transformers' pipelines on the folder that we export."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

import lmzoo
import lmzoo.errors
from inference_models import TEXTS, language_model
from lmzoo.hub.folder import export_model
from lmzoo.inference.model import LanguageModel

PROMPTS = ["The cat", "the dog sat on", "a", "猫坐在 🙂"]
MASKED = ["The [MASK] sat on the mat.", "[MASK]", "猫坐在[MASK]子上 and the cat", "the dog sat [MASK]"]


def exported(folder, family: str, objective: str, tokenizer) -> LanguageModel:
    """A model with weights that make its guesses far apart, exported, and opened again."""
    # the published models start from smaller weights; OpenAI GPT's feed-forward layer has one width only
    sharpness, shape = (3.0, {}) if family in ("bert", "gpt") else (15.0, {"ffn_size": 64})
    made = language_model(family, objective, tokenizer, sharpness=sharpness, **shape)
    module = made.engine.module
    config = module.backbone.encoder.config
    export_model(folder, module, config, 64, tokenizer)
    return lmzoo.load(folder)


def clearly_apart(values: list[float]) -> bool:
    """Whether rounding cannot change the order."""
    return all(high - low > 1e-4 * abs(high) for high, low in itertools.pairwise(values))


@pytest.mark.parametrize(
    ("family", "objective"), [("bert", "mlm"), ("bert_2018", "mlm"), ("bert_2018", "mlm_nsp")]
)
def test_fill_mask_is_transformers_pipeline(family, objective, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = exported(tmp_path / "model", family, objective, tokenizer)
    pipeline = transformers.pipeline("fill-mask", model=str(tmp_path / "model"))
    for text in MASKED:
        (ours,) = model.fill_mask(text, 6)
        theirs = pipeline(text, top_k=6)
        assert clearly_apart([guess.probability for guess in ours])
        assert [guess.id for guess in ours] == [guess["token"] for guess in theirs]
        assert [g.probability for g in ours] == pytest.approx([g["score"] for g in theirs], rel=1e-3)
    several = pipeline("[MASK] cat sat [MASK] the mat", top_k=3)
    ours = model.fill_mask("[MASK] cat sat [MASK] the mat", 3)
    assert [[g.id for g in gap] for gap in ours] == [[g["token"] for g in gap] for gap in several]


@pytest.mark.parametrize("family", ["gpt", "gpt2", "gpt_2018"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 0.0},
        {"num_beams": 2, "length_penalty": 2.5},
    ],
    ids=str,
)
def test_generate_is_transformers_pipeline(family, how, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = exported(tmp_path / "model", family, "clm", tokenizer)
    pipeline = transformers.pipeline("text-generation", model=str(tmp_path / "model"))
    for prompt in PROMPTS:
        (theirs,) = pipeline(prompt, max_new_tokens=12, do_sample=False, return_tensors=True, **how)
        ids = theirs["generated_token_ids"]
        start = 1 + len(tokenizer.encode_batch([prompt])[0])
        new = [token for token in ids[start:] if token not in (tokenizer.special.sep, tokenizer.special.pad)]
        found = model.generate(prompt, 12, **how)
        assert found.ids == new
        (said,) = pipeline(prompt, max_new_tokens=12, do_sample=False, return_full_text=False, **how)
        assert said["generated_text"] == found.text


@pytest.mark.parametrize("form", ["gpt2", "openai-gpt"])
def test_a_gpt_from_elsewhere_reads_the_bare_text_as_there(form, tmp_path):
    """Rows, states, attention and continuations; to score it, a token is put before the first."""

    transformers = pytest.importorskip("transformers")
    from test_tokenizer_folders import gpt2_folder, gpt_folder

    folder = {"gpt2": gpt2_folder, "openai-gpt": gpt_folder}[form](tmp_path / form)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind = {"gpt2": transformers.GPT2LMHeadModel, "openai-gpt": transformers.OpenAIGPTLMHeadModel}[form]
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.5}
    model = kind(kind.config_class(vocab_size=len(tokenizer), **shape)).eval()
    model.save_pretrained(folder)
    ours = lmzoo.load(folder)
    text = "the cat"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True)
    (found,) = ours.embed([text])
    np.testing.assert_allclose(found.vectors, hidden.hidden_states[-1][0].numpy(), atol=1e-5)
    assert len(ours.attention(text).tokens) == ids.shape[1]
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    theirs = model.generate(ids, **settings)[0, ids.shape[1] :].tolist()
    made = ours.generate(text, max_new_tokens=5)
    assert made.ids == theirs[: len(made.ids)]
    assert made.ids
    before = [] if form == "openai-gpt" else [ours.engine.special.cls]  # which has nothing to put there
    row = torch.tensor([[*before, *ids[0].tolist()]])
    with torch.no_grad():
        logits = model(row).logits.log_softmax(-1)
    expected = logits[0, :-1].gather(1, row[0, 1:, None]).sum()
    (score,) = ours.score([text], details=True)
    assert score.nats == pytest.approx(float(expected), abs=1e-4)
    assert score.tokens == len(score.token_nats) == ids.shape[1]
    assert (score.token_nats[0] == 0) == (form == "openai-gpt")


@pytest.mark.parametrize("seed", range(4))
def test_beams_that_end_at_different_lengths_have_transformers_scores(seed, tokenizer, tmp_path):
    """The end is made likely, so that searches have finished beams to weigh against growing ones."""
    transformers = pytest.importorskip("transformers")
    made = language_model("gpt2", "clm", tokenizer, sharpness=3.0)
    with torch.no_grad():
        table = made.engine.backbone.embedding.tokens.weight
        generator = torch.Generator().manual_seed(seed)
        table += 0.3 * torch.randn(table.shape, generator=generator)
        table[tokenizer.special.sep] *= 2.5
    folder = tmp_path / "model"
    export_model(folder, made.engine.module, made.engine.backbone.encoder.config, 64, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    finishes = set()
    for prompt in PROMPTS:
        row = [tokenizer.special.cls, *tokenizer.encode_batch([prompt])[0]]
        for penalty in (0.0, 1.0, 2.0):
            said = theirs.generate(
                torch.tensor([row]),
                max_new_tokens=10,
                num_beams=3,
                length_penalty=penalty,
                do_sample=False,
                early_stopping=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
            found = made.generate(prompt, 10, num_beams=3, length_penalty=penalty)
            finishes.add(found.finish)
            new = said.sequences[0, len(row) :].tolist()
            assert found.ids == [t for t in new if t not in (tokenizer.special.sep, tokenizer.special.pad)]
            assert found.score == pytest.approx(float(said.sequences_scores[0]), rel=1e-3)
    assert "end" in finishes


@pytest.mark.parametrize(("family", "objective"), [("bert", "mlm"), ("bert_2018", "mlm"), ("gpt2", "clm")])
def test_mean_pooling_is_sentence_transformers(family, objective, tokenizer, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = exported(tmp_path / "model", family, objective, tokenizer)
    texts = [text for text in TEXTS if text]
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    np.testing.assert_allclose(model.embed(texts, pooling="mean"), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "objective"), [("elmo", "bilm"), ("elmo_2018", "bilm"), ("gpt", "clm"), ("bert", "mlm_nsp")]
)
def test_a_loaded_model_is_the_one_that_was_exported(family, objective, tokenizer, tmp_path):
    made = language_model(family, objective, tokenizer)
    export_model(tmp_path / "model", made.engine.module, made.engine.backbone.encoder.config, 64, tokenizer)
    model = lmzoo.load(tmp_path / "model")
    assert (model.name, model.objective) == (family, objective)
    np.testing.assert_array_equal(
        model.embed(TEXTS, pooling="mean", layer="all"), made.embed(TEXTS, pooling="mean", layer="all")
    )
    assert model.score(TEXTS) == made.score(TEXTS)


def test_the_script_works_on_a_folder_and_bears_a_reader_that_leaves(tokenizer, tmp_path):
    exported(tmp_path / "model", "gpt", "clm", tokenizer)
    lines = tmp_path / "lines.txt"
    lines.write_text("The cat sat on the mat.\n" * 20_000, encoding="utf-8")
    command = (
        f"{sys.executable} -m lmzoo.main score run={tmp_path / 'model'} file={lines} | head -n 2;"
        "echo ${PIPESTATUS[0]}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    first, second, status = done.stdout.splitlines()
    assert first == second
    assert first.endswith("\tThe cat sat on the mat.")
    assert (status, done.stderr) == ("1", "")


def test_a_folder_without_heads_embeds_and_says_what_it_lacks(tokenizer, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    exported(tmp_path / "model", "bert_2018", "mlm", tokenizer)
    bare = transformers.BertModel.from_pretrained(tmp_path / "model").eval()
    bare.save_pretrained(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "bare" / name).write_bytes((tmp_path / "model" / name).read_bytes())
    capsys.readouterr()
    model = lmzoo.load(tmp_path / "bare")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {tmp_path / 'bare'}: ")
    assert "head" in line
    row = tokenizer.encode_batch(["The cat"])[0]
    with torch.no_grad():
        states = bare(torch.tensor([[tokenizer.special.cls, *row, tokenizer.special.sep]])).last_hidden_state
    np.testing.assert_allclose(model.embed(["The cat"])[0].vectors, states[0, 1:-1], rtol=0, atol=1e-4)
    with pytest.raises(lmzoo.errors.LmzooError, match="no weights of a head"):
        model.fill_mask("The [MASK]")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(lmzoo.errors.LmzooError, match="holds no model"):
        lmzoo.load(tmp_path)


def test_a_gap_takes_the_blank_before_it_along(tokenizer, tmp_path):
    """At byte level a word has its blank in front: a gap that left it outside would ask for none of them."""
    model = exported(tmp_path / "model", "bert", "mlm", tokenizer)
    spaced, bare = (model.fill_mask(text, top_k=3) for text in ("The [MASK] sat.", "The[MASK] sat."))
    assert [guess.id for guess in spaced[0]] == [guess.id for guess in bare[0]]
    assert [guess.probability for guess in spaced[0]] == [guess.probability for guess in bare[0]]
    assert all(guess.text == f"The{guess.token} sat." for guess in spaced[0])
