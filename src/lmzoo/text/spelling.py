"""What the pieces of a vocabulary spell, by the kind of the vocabulary."""

from __future__ import annotations

from typing import Any

_METASPACE = "▁"


def spelling(piece: str, description: dict[str, Any]) -> bytes:
    """The UTF-8 bytes that a piece spells; half a character's bytes where a byte-level piece is no more.

    Args:
        piece: as it stands in the vocabulary.
        description: the content of the ``tokenizer.json``, whose decoder and model say how pieces are
            written: as the stand-ins of bytes, with ``##`` inside or ``</w>`` at the end of a word, or with
            a mark for the space before it.
    """
    decoder, model = description["decoder"] or {}, description["model"]
    kinds = {decoder.get("type"), *(entry["type"] for entry in decoder.get("decoders", ()))}
    if "ByteLevel" in kinds:
        if all(character in _BYTES for character in piece):
            return bytes(_BYTES[character] for character in piece)
        return piece.encode()
    if "Metaspace" in kinds:
        return piece.replace(decoder.get("replacement", _METASPACE), " ").encode()
    inside, ending = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    return piece.removeprefix(inside or "").removesuffix(ending or "").encode()


def _stand_ins() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for, as in GPT-2's: the visible bytes
    of Latin-1 stand for themselves, U+0100 and the characters after it for the others in order."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _stand_ins()
