"""Whether a tokenizer, from wherever it comes, gives every text back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers

_PROBE = "A probe: naïve 中文。”“🙂\n\n  \t\x00 [SEP] "


def is_lossless(tokenizer: Tokenizer, special: Sequence[str]) -> bool:
    """Whether decoding what was encoded gives the very text back, byte by byte, whatever the text.

    So it is at byte level, unless a token is missing for a byte, two tokens share an id, or something
    changes the text or leaves a part of it out on the way: a normaliser, a prefix, a splitter that removes
    what it splits at, an added token that swallows the spaces beside it, a special token that is a word.

    Args:
        tokenizer: with ``encode_special_tokens`` set.
        special: its special tokens, which decoding leaves out.
    """
    vocabulary = tokenizer.get_vocab()
    if not isinstance(tokenizer.decoder, decoders.ByteLevel) or tokenizer.normalizer is not None:
        return False
    if not set(pre_tokenizers.ByteLevel.alphabet()) <= vocabulary.keys():
        return False
    if len(set(vocabulary.values())) < len(vocabulary):
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if any((token.lstrip or token.rstrip) and not token.special for token in added):
        return False
    splitter: Any = tokenizer.pre_tokenizer
    described = b"" if splitter is None else splitter.__getstate__()  # JSON
    if b"Removed" in described or b"CharDelimiterSplit" in described:
        return False
    probes = [_PROBE, *special]
    try:
        encoded = tokenizer.encode_batch_fast(probes, add_special_tokens=False)
    except Exception:  # the library raises nothing narrower
        return False
    return all(
        tokenizer.decode(encoding.ids, skip_special_tokens=True) == probe
        for encoding, probe in zip(encoded, probes, strict=True)
    )
