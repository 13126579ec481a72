"""Tokenizers from files: a ``tokenizer.json``, or a folder in Hugging Face's layout.

A folder holds ``tokenizer.json``, or ``vocab.txt`` (BERT), or ``vocab.json`` with ``merges.txt`` (GPT and
GPT-2), and may say in ``tokenizer_config.json`` and ``special_tokens_map.json`` which token plays which
part. Files are found by these names alone: no path that stands in one of them is followed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lmzoo.errors import LmzooError

PARTS = ("pad", "unk", "cls", "sep", "mask")
"""The parts that special tokens play, in the order of `SpecialTokens`."""
_ROLES = {
    "pad": ("pad_token", "eos_token", "unk_token"),
    "unk": ("unk_token", "eos_token"),
    "cls": ("cls_token", "bos_token", "eos_token", "unk_token"),
    "sep": ("sep_token", "eos_token", "bos_token", "unk_token"),
    "mask": ("mask_token",),
}
"""Which of a folder's roles may play a part, the first choice first: GPT-2 has one token for all of them."""
_CONVENTIONS = {
    "pad_token": ("[PAD]",),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
    "mask_token": ("[MASK]",),
    "bos_token": ("<|endoftext|>",),
    "eos_token": ("<|endoftext|>",),
}
"""The names of our own and of BERT's, GPT's and GPT-2's vocabularies, whose files name no roles."""
_ENDING = "</w>"


def open_tokenizer(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """Read a tokenizer.

    Args:
        path: a ``tokenizer.json`` under any name, or a folder.

    Returns:
        the tokenizer, and which tokens its folder gives to which roles (``cls_token``, …).

    Raises:
        LmzooError: a file is missing, damaged or not what its name says.
    """
    if not path.is_dir():
        roles = _read_roles(path.parent) if path.name == "tokenizer.json" else {}
        return _read_tokenizer(path), roles
    roles = _read_roles(path)
    if (path / "tokenizer.json").is_file():
        return _read_tokenizer(path / "tokenizer.json"), roles
    if (path / "vocab.txt").is_file():
        vocabulary = _read_lines(path / "vocab.txt")
        build = _build_bert
    elif (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        vocabulary = _read_vocabulary(path / "vocab.json")
        build = _build_gpt
    else:
        raise LmzooError(
            f"the tokenizer {path} is no folder of one: it has no tokenizer.json, no vocab.txt, and no "
            "vocab.json with merges.txt"
        )
    added = path / "added_tokens.json"
    if added.is_file() and not _read_vocabulary(added).keys() <= vocabulary.keys():
        raise LmzooError(
            f"{added} adds tokens to the vocabulary, which only a tokenizer.json can say how to find; "
            "load it with transformers and save it again"
        )
    try:
        return build(path, vocabulary, choose_special(vocabulary, roles, f"the tokenizer {path}")), roles
    except LmzooError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise LmzooError(f"the tokenizer {path} cannot be built from its files ({error})") from None


def choose_special(vocabulary: Mapping[str, int], roles: Mapping[str, str], source: str) -> dict[str, str]:
    """Which token plays which part.

    Args:
        vocabulary: every token.
        roles: token of each role that files give; the others are looked for by their usual names.
        source: where the vocabulary comes from, for messages.

    Returns:
        token of each part (``pad unk cls sep``, and ``mask`` if there is one).

    Raises:
        LmzooError: a token that is not in the vocabulary, or none for a part.
    """
    usual = {
        role: next((name for name in names if name in vocabulary), None)
        for role, names in _CONVENTIONS.items()
    }
    chosen: dict[str, str] = {}
    for part, choices in _ROLES.items():
        found = [(role, roles.get(role) or usual[role]) for role in choices]
        role, name = next(((role, name) for role, name in found if name), ("", None))
        if name is not None:
            if name not in vocabulary:
                raise LmzooError(f"{source} gives {role} as {name!r}, and its vocabulary has no such token")
            chosen[part] = name
    missing = [part for part in PARTS[:-1] if part not in chosen]
    if missing:
        names = ", ".join(_CONVENTIONS[_ROLES[part][0]][0] for part in missing)
        raise LmzooError(
            f"{source} has no token {names} and none that could stand for it; add it, or name the token in "
            "special_tokens_map.json beside tokenizer.json, e.g. as eos_token"
        )
    return chosen


def _read_tokenizer(path: Path) -> Tokenizer:
    given = _read_text(path)
    try:
        return Tokenizer.from_str(given)
    except Exception as error:  # the library raises nothing narrower
        raise LmzooError(
            f"the tokenizer {path} is no tokenizer.json, or a damaged one ({_one_line(error)})"
        ) from None


def _read_roles(folder: Path) -> dict[str, str]:
    roles: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).is_file():
            continue
        for role, given in _read_object(folder / name).items():
            token = given.get("content") if isinstance(given, dict) else given
            if role in _CONVENTIONS and isinstance(token, str):
                roles.setdefault(role, token)
    return roles


def _build_bert(folder: Path, vocabulary: dict[str, int], special: dict[str, str]) -> Tokenizer:
    settings = _settings(folder)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _build_gpt(folder: Path, vocabulary: dict[str, int], special: dict[str, str]) -> Tokenizer:
    merges = _read_merges(folder / "merges.txt")
    if set(pre_tokenizers.ByteLevel.alphabet()) <= vocabulary.keys():
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        spaced = _settings(folder).get("add_prefix_space", False)
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
        tokenizer.decoder = decoders.ByteLevel()
    elif any(piece.endswith(_ENDING) for piece in vocabulary):
        model = models.BPE(vocabulary, merges, unk_token=special["unk"], end_of_word_suffix=_ENDING)
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.BPEDecoder(suffix=_ENDING)
    else:
        raise LmzooError(
            f"{folder / 'vocab.json'} is of an unknown kind: it has neither the 256 bytes of GPT-2's nor "
            f"GPT's words that end with {_ENDING}; give a tokenizer.json"
        )
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return _read_object(path) if path.is_file() else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise LmzooError(f"the tokenizer {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise LmzooError(f"the tokenizer {path} is not UTF-8; fetch it again, or give another") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise LmzooError(f"{path} is not JSON ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise LmzooError(f"{path} is no object of JSON; fetch it again")
    return found


def _read_vocabulary(path: Path) -> dict[str, int]:
    found = _read_object(path)
    for token, number in found.items():
        if type(number) is not int or not 0 <= number < 2**32:
            raise LmzooError(f"{path} gives the token {token!r} the id {number!r}; fetch it again")
    return found


def _read_lines(path: Path) -> dict[str, int]:
    lines = _read_text(path).split("\n")
    if not lines[-1]:
        lines.pop()
    return {line.removesuffix("\r"): number for number, line in enumerate(lines)}


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise LmzooError(f"{path}:{number} is no merge of two pieces; fetch it again")
        merges.append((left, right))
    return merges


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
