"""Tokenizers in Hugging Face's layout: the ids are those of transformers, the parts are found by role."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from corpora import made_documents, write_text
from lmzoo.data.config import VIEWS, DataConfig
from lmzoo.data.prepare import prepare
from lmzoo.data.views import build_view
from lmzoo.errors import LmzooError
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import TextTokenizer, load_tokenizer
from lmzoo.types import NO_DOCUMENT, SpecialTokens

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's the dog's day, isn't it?",
    "我们在学习语言模型。“他来了！”“我走了。”他说：好；走吧……",
    "  Unaffable words, naïve CAFÉ Ünïcödé\n\n\tand 12345 numbers.\r\n",
    "mixed 中文 and English，句子。 e\u0301 🙂 龘 zzz",
]
CORPUS = TEXTS * 20
END = "<|endoftext|>"


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def bert_folder(folder: Path, lowercase: bool = True) -> Path:
    """BERT's own files: a list of pieces, and whether case is folded."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    write(folder / "config.json", {"model_type": "bert"})
    write(folder / "tokenizer_config.json", {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"})
    pieces = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in pieces), encoding="utf-8")
    return folder


def bert_cased_folder(folder: Path) -> Path:
    return bert_folder(folder, lowercase=False)


def gpt2_folder(folder: Path) -> Path:
    """GPT-2's own files, which name no special token."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    vocabulary = trained.get_vocab()
    write(folder / "config.json", {"model_type": "gpt2"})
    trained.model.save(str(folder))
    write(folder / "vocab.json", vocabulary | {END: len(vocabulary)})
    return folder


def gpt_folder(folder: Path) -> Path:
    """GPT's own files: pieces that end with </w> where a word ends, <unk> the only special token."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator([*TEXTS[:3]] * 20, trainer)
    write(folder / "config.json", {"model_type": "openai-gpt"})
    trained.model.save(str(folder))
    return folder


def modernbert_folder(folder: Path) -> Path:
    """ModernBERT's: byte level after NFC, runs of spaces as added tokens, a mask that takes the space."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    trained.add_tokens([AddedToken("  ", normalized=True), AddedToken("   ", normalized=True)])
    trained.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", AddedToken("[MASK]", lstrip=True)])
    trained.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, trained.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    trained.save(str(folder / "tokenizer.json"))
    roles = {f"{part}_token": f"[{part.upper()}]" for part in ("unk", "cls", "sep", "pad", "mask")}
    write(folder / "config.json", {"model_type": "modernbert"})
    write(folder / "tokenizer_config.json", {**roles, "tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "bert": bert_folder,
    "bert cased": bert_cased_folder,
    "gpt2": gpt2_folder,
    "gpt": gpt_folder,
    "modernbert": modernbert_folder,
}
each = pytest.mark.parametrize("kind", FOLDERS)


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    return FOLDERS[kind](tmp_path / kind)


@each
def test_ids_are_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = load_tokenizer(folder)
    for text in [*TEXTS, "", " ", "THE DOG"]:
        assert ours.encode_batch([text]) == [theirs(text, add_special_tokens=False)["input_ids"]], text
    ids = ours.encode_batch(TEXTS)
    assert [ours.decode(row) for row in ids] == [
        theirs.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False) for row in ids
    ]


@each
def test_the_parts_are_those_of_transformers(folder: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    special = load_tokenizer(folder).special
    assert special.unk == theirs.unk_token_id
    if "bert" in kind:
        assert (special.cls, special.sep, special.pad, special.mask) == (
            theirs.cls_token_id,
            theirs.sep_token_id,
            theirs.pad_token_id,
            theirs.mask_token_id,
        )
    else:
        assert special.mask is None
        assert {special.cls, special.sep, special.pad} == {theirs.unk_token_id}


@each
def test_saved_and_loaded_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    ours = load_tokenizer(folder)
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved" / "tokenizer.json")
    for again in (tmp_path / "saved", tmp_path / "saved" / "tokenizer.json"):
        loaded = load_tokenizer(again)
        assert loaded.encode_with_offsets(TEXTS) == ours.encode_with_offsets(TEXTS)
        assert (loaded.special, loaded.special_names) == (ours.special, ours.special_names)
        assert loaded.fingerprint() == ours.fingerprint()
        assert loaded.spellings() == ours.spellings()


def test_the_file_alone_is_refused_where_no_name_tells_the_parts(tmp_path: Path) -> None:
    ours = load_tokenizer(gpt_folder(tmp_path / "gpt"))
    content = json.loads(ours.json())
    content["model"]["unk_token"] = "<nil>"
    content["model"]["vocab"]["<nil>"] = content["model"]["vocab"].pop("<unk>")
    content["added_tokens"] = []
    content["post_processor"] = None
    write(tmp_path / "tokenizer.json", content)
    with pytest.raises(LmzooError, match=r"tokenizer.json has no token \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        load_tokenizer(tmp_path / "tokenizer.json")
    write(tmp_path / "special_tokens_map.json", {"unk_token": {"content": "<nil>", "lstrip": False}})
    special = load_tokenizer(tmp_path).special
    assert special == SpecialTokens(ours.vocab_size, *[ours.special.unk] * 4, mask=None)
    write(tmp_path / "special_tokens_map.json", {"unk_token": "<nil>", "eos_token": "<end>"})
    with pytest.raises(LmzooError, match="gives eos_token as '<end>', and its vocabulary has no such token"):
        load_tokenizer(tmp_path)


ROLES = [
    ({"cls_token": "a", "bos_token": "b", "eos_token": "c", "unk_token": "d"}, "cdac"),
    ({"bos_token": "b", "eos_token": "c", "unk_token": "d"}, "cdbc"),
    ({"bos_token": "b", "eos_token": "c", "unk_token": "d", "pad_token": "a"}, "adbc"),
    ({"eos_token": "c"}, "cccc"),
    ({"unk_token": "d"}, "dddd"),
    ({"bos_token": "b", "unk_token": "d", "sep_token": "a", "mask_token": "c"}, "ddbac"),
]


@pytest.mark.parametrize(("roles", "expected"), ROLES, ids=lambda value: str(value))
def test_roles(tmp_path: Path, roles: dict[str, str], expected: str) -> None:
    Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("abcd")})).save(
        str(tmp_path / "tokenizer.json")
    )
    write(tmp_path / "tokenizer_config.json", {**roles, "additional_special_tokens": ["x"], "pad_side": None})
    names = load_tokenizer(tmp_path).special_names
    assert names == dict(zip(("pad", "unk", "cls", "sep", "mask"), expected, strict=False))


def test_gpt2_gives_the_text_back(tmp_path: Path) -> None:
    ours = load_tokenizer(gpt2_folder(tmp_path / "gpt2"))
    assert ours.lossless
    assert ours.special.ids == (ours.special.unk,)
    texts = [*TEXTS, f"a text that writes {END} has no end there"]
    encoded = ours.encode_batch(texts)
    assert [ours.decode(ids) for ids in encoded] == texts
    assert ours.special.sep not in encoded[-1]
    lengths = ours.id_bytes()
    assert lengths is not None
    assert [lengths[ids].sum() for ids in encoded] == [len(text.encode()) for text in texts]
    assert load_tokenizer(modernbert_folder(tmp_path / "modernbert")).lossless is False


def written_around(content: str, *texts: str) -> tuple[list[int], list[int]]:
    encoded = Tokenizer.from_str(content).encode(*texts)
    return encoded.ids, encoded.type_ids


@each
def test_what_is_written_around_a_text_elsewhere(folder: Path) -> None:
    ours = load_tokenizer(folder)
    a, b = ours.encode_batch(["the dog", "day"])
    cls, sep = ours.special.cls, ours.special.sep
    types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    assert written_around(ours.json(), "the dog") == ([cls, *a, sep], types[: len(a) + 2])
    assert written_around(ours.json(), "the dog", "day") == ([cls, *a, sep, *b, sep], types)
    assert written_around(ours.json(ending=False), "the dog") == ([cls, *a], types[: len(a) + 1])
    assert written_around(ours.json(ending=False), "the dog", "day") == ([cls, *a, sep, *b], types[:-1])


@each
def test_a_store_keeps_the_parts(folder: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "a.txt", [*TEXTS, *made_documents(30)])
    data = DataConfig(source="text", train=str(text), valid_fraction=0.2)
    ours = load_tokenizer(folder)
    store = prepare(data, TokenizerConfig(file=str(folder)), tmp_path / "cache")
    assert store.tokenizer.special == ours.special
    assert store.tokenizer.fingerprint() == ours.fingerprint()
    part = store.parts["train"]
    assert (part.tokens[part.documents[:-1]] == ours.special.cls).all()
    assert (part.tokens[part.documents[1:] - 1] == ours.special.sep).all()
    assert store.unigram_entropy() > 1
    for name in VIEWS:
        view = build_view(name, part, ours.special, 32, key=1)
        rows = np.arange(4)
        batch = view.batch(rows, 0 * rows, rows)
        padded = batch.documents == NO_DOCUMENT
        assert (batch.tokens[padded] == ours.special.pad).all()
        assert not padded.all()


def test_added_tokens_beside_a_vocabulary(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    write(folder / "added_tokens.json", {"[SEP]": 4})
    load_tokenizer(folder)
    write(folder / "added_tokens.json", {"[NEW]": 300})
    with pytest.raises(LmzooError, match=r"added_tokens.json adds tokens to the vocabulary"):
        load_tokenizer(folder)


def test_no_path_of_a_config_is_followed(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    plain = load_tokenizer(folder).fingerprint()
    gpt2_folder(tmp_path / "gpt2")
    settings = {
        "do_lower_case": True,
        "tokenizer_file": "../gpt2/tokenizer.json",
        "vocab_file": "/etc/passwd",
    }
    write(folder / "tokenizer_config.json", settings)
    assert load_tokenizer(folder).fingerprint() == plain


def _without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def _put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


DAMAGED = {
    "nothing there": ("gpt2", _without("vocab.json", "merges.txt"), "has no tokenizer.json, no vocab.txt"),
    "no merges": ("gpt2", _without("merges.txt"), "no vocab.json with merges.txt"),
    "cut vocabulary": ("gpt2", _put("vocab.json", b'{"a": 0, '), r"vocab.json is not JSON"),
    "list": ("gpt2", _put("vocab.json", b"[1]"), "vocab.json is no object"),
    "no id": ("gpt2", _put("vocab.json", b'{"a": "b"}'), "vocab.json gives the token 'a' the id 'b'"),
    "of no kind": ("gpt2", _put("vocab.json", b'{"a": 0, "<unk>": 1}'), "vocab.json is of an unknown kind"),
    "no unknown": ("gpt2", _put("vocab.json", b'{"a": 0}'), r"gpt2 has no token \[PAD\], \[UNK\]"),
    "half a merge": ("gpt2", _put("merges.txt", b"#version: 0.2\na b\nab\n"), r"merges.txt:3 is no merge"),
    "merge of nothing": ("gpt2", _put("merges.txt", b"\xe4\xb8\xad \xe4\xb8\xad\n"), "cannot be built from"),
    "not UTF-8": ("bert", _put("vocab.txt", b"[PAD]\ncaf\xe9\n"), "vocab.txt is not UTF-8"),
    "empty": ("bert", _put("vocab.txt", b""), r"bert has no token \[PAD\], \[UNK\]"),
    "cut config": ("bert", _put("tokenizer_config.json", b'{"do'), "tokenizer_config.json is not JSON"),
    "odd config": ("bert", _put("tokenizer_config.json", b'{"do_lower_case": "x"}'), "cannot be built from"),
    "cut tokenizer.json": (
        "modernbert",
        _put("tokenizer.json", b'{"version"'),
        "is no tokenizer.json, or",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_folder_is_refused_by_name(tmp_path: Path, case: str) -> None:
    kind, damage, words = DAMAGED[case]
    folder = FOLDERS[kind](tmp_path / kind)
    damage(folder)
    with pytest.raises(LmzooError, match=words) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


@each
def test_spellings(folder: Path, kind: str) -> None:
    ours: TextTokenizer = load_tokenizer(folder)
    spelt = ours.spellings()
    assert len(spelt) == ours.vocab_size
    normalize: Callable[[str], str] = {
        "bert": normalizers.BertNormalizer(lowercase=True).normalize_str,
        "bert cased": normalizers.BertNormalizer(lowercase=False).normalize_str,
        "gpt": normalizers.BertNormalizer(lowercase=True).normalize_str,
    }.get(kind, normalizers.NFC().normalize_str)
    known = 0
    for text in TEXTS:
        ((ids, places),) = ours.encode_with_offsets([text])
        if kind in ("gpt2", "modernbert"):  # of bytes: together they are the text
            expected = normalize(text) if kind == "modernbert" else text
            assert b"".join(spelt[token] for token in ids) == expected.encode()
            known += len(ids)
            continue
        for token, (start, end) in zip(ids, places, strict=True):
            if token not in ours.unknown_ids:
                assert spelt[token].decode() == normalize(text[start:end]).strip()
                known += 1
    assert known > 50
    for part, name in ours.special_names.items():
        shared = list(ours.special_names.values()).count(name) > 1
        assert spelt[getattr(ours.special, part)] == (name.encode() if part == "unk" and not shared else b"")
