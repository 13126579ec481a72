"""Words that the vocabulary lacks: spelt by a char-CNN, looked up in a file of vectors, or unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from inference_models import language_model
from lmzoo.errors import LmzooError
from lmzoo.text.tokenizer import TextTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "sat", "on", "mat", "."]
TEXT = "the zebra sat on the giraffe ."


def words(*more: str, lowercase: bool = True) -> TextTokenizer:
    """A tokenizer of whole words, with further ones at the end."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS, *more])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(tokenizer, "the test's tokenizer")


def with_and_without(objective: str, *unseen: str, **changes):
    """A model that lacks some words, and one with the same weights that has them."""
    lacking = language_model("elmo_2018", objective, words(), **changes)
    having = language_model("elmo_2018", objective, words(*unseen), **changes)
    weights = lacking.engine.backbone.state_dict()
    weights.pop("embedding.tokens.spelling")
    having.engine.backbone.load_state_dict(weights, strict=False)
    return lacking, having


@pytest.mark.parametrize("objective", ["bilm", "clm", "mlm"])
def test_a_char_cnn_reads_unseen_words_as_if_it_had_them(objective):
    lacking, having = with_and_without(objective, "zebra", "giraffe")
    texts = [TEXT, "the cat sat .", "Giraffe ZEBRA", "a giraffe on a zebra and a giraffe"]
    texts = [text.replace("a ", "the ").replace("and ", "") for text in texts]
    for layer in (0, None):
        for one, other in zip(
            lacking.embed(texts, layer=layer), having.embed(texts, layer=layer), strict=True
        ):
            np.testing.assert_allclose(one.vectors, other.vectors, rtol=0, atol=1e-5)
            assert one.offsets == other.offsets
            assert [token.lower() for token in one.tokens] == other.tokens
    (found,) = lacking.embed([TEXT], layer=0)
    zebra, giraffe = found.vectors[found.tokens.index("zebra")], found.vectors[found.tokens.index("giraffe")]
    assert np.abs(zebra - giraffe).max() > 1e-3


def test_an_unseen_word_is_spelt_as_far_as_a_seen_one():
    lacking, _ = with_and_without("bilm", characters_per_token=6)
    one, other, third = (
        v[0].vectors for v in (lacking.embed([w], layer=0) for w in ("zebra", "zebr", "zeb"))
    )
    np.testing.assert_allclose(one, other, atol=1e-6)  # four bytes and two borders
    assert np.abs(one - third).max() > 1e-3


def test_unseen_words_are_counted_and_scored_as_the_unknown_token():
    lacking, having = with_and_without("clm", "zebra", "giraffe")
    (detail,) = lacking.score([TEXT], details=True)
    assert (detail.unknown, detail.tokens) == (2, 7)
    assert having.score([TEXT], details=True)[0].unknown == 0
    head = lacking.engine.objective.head
    hidden = torch.from_numpy(lacking.embed([TEXT])[0].vectors)
    with torch.no_grad():
        chances = head.logits(hidden).log_softmax(-1)
    sat = lacking.engine.tokenizer.encode_batch(["sat"])[0][0]
    assert detail.token_nats[1] == pytest.approx(float(chances[0, lacking.engine.special.unk]), abs=1e-4)
    assert detail.token_nats[2] == pytest.approx(float(chances[1, sat]), abs=1e-4)


def test_a_prompt_may_hold_unseen_words():
    lacking, having = with_and_without("clm", "zebra", "giraffe")
    prompts = ["the zebra", "the giraffe sat", "the cat"]
    with_cache, without = (lacking.generate(prompts, 6, use_cache=use) for use in (True, False))
    assert [each.ids for each in with_cache] == [each.ids for each in without]
    batch = lacking.engine.reader.read(prompts)
    known = having.engine.reader.read(prompts)
    assert batch.unseen is not None
    assert known.unseen is None
    assert batch.inputs[0] == [5, 12]  # V = 11: giraffe, zebra
    assert batch.ids[0] == [5, 1]


def test_a_table_of_drawn_vectors_reads_them_as_unknown():
    model = language_model("elmo", "bilm", words())
    zebra, giraffe, unknown = (model.embed([word])[0].vectors for word in ("zebra", "giraffe", "[UNK]"))
    np.testing.assert_array_equal(zebra, giraffe)
    assert unknown.shape[0] == 3  # brackets are words of their own: a special token spelt out is text


# ---------------------------------------------------------------------------------- a file of vectors


def write_vectors(path, width: int = 16, **given: float) -> None:
    lines = [f"{word} " + " ".join([str(value)] * width) for word, value in given.items()]
    path.write_text(f"{len(lines)} {width}\n" + "\n".join(lines) + "\n", encoding="utf-8")


def test_a_table_filled_from_a_file_takes_unseen_words_from_it(tmp_path):
    path = tmp_path / "vectors.vec"
    write_vectors(path, zebra=0.5, giraffe=-0.25)
    model = language_model("gpt", "clm", words(), embedding_norm=False, vectors=str(path))
    (found,) = model.embed(["the Zebra sat on the giraffe, gnu"], layer=0)
    by_token = dict(zip(found.tokens, found.vectors, strict=True))
    np.testing.assert_allclose(by_token["Zebra"], 0.5)
    np.testing.assert_allclose(by_token["giraffe"], -0.25)
    table = model.engine.backbone.embedding.tokens.weight.detach().numpy()
    np.testing.assert_allclose(by_token["gnu"], table[1])  # not in the file either
    np.testing.assert_allclose(by_token["cat" if "cat" in by_token else "sat"], table[7])
    assert model.score(["the zebra sat"], details=True)[0].unknown == 1


def test_a_missing_file_of_vectors_is_said_once(tmp_path, capsys):
    model = language_model("gpt", "clm", words(), vectors=str(tmp_path / "gone.vec"))
    plain = language_model("gpt", "clm", words())
    for _ in range(2):
        np.testing.assert_array_equal(
            model.embed(["the zebra"], pooling="mean"), plain.embed(["the zebra"], pooling="mean")
        )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'gone.vec'} is not there, so words outside the vocabulary")


def test_a_file_of_another_width_is_refused(tmp_path):
    write_vectors(tmp_path / "vectors.vec", width=7, zebra=0.5)
    model = language_model("gpt", "clm", words(), vectors=str(tmp_path / "vectors.vec"))
    with pytest.raises(LmzooError, match="has vectors of 7 numbers, and this model's have 16"):
        model.embed(["the zebra"])


def test_a_file_is_asked_once_for_each_word(tmp_path, monkeypatch):
    from lmzoo.inference import reading

    asked = []

    class File:
        dimension = 16

        def __init__(self, path):
            pass

        def find(self, wanted):
            asked.append(sorted(wanted))
            return {}

    (tmp_path / "vectors.vec").touch()
    monkeypatch.setattr(reading, "VectorFile", File)
    model = language_model("gpt", "clm", words(), vectors=str(tmp_path / "vectors.vec"))
    for text in ("zebra gnu", "gnu", "gnu yak", "the cat"):
        model.embed([text])
    assert asked == [["gnu", "zebra"], ["yak"]]
