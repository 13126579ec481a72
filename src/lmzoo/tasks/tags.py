"""Entity tags in IOB2 (Tjong Kim Sang and Veenstra 1999): B-X begins an entity, I-X goes on, O is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAG = re.compile(r"O|[BI]-.+")


def is_entity_tag(tag: str) -> bool:
    """Whether this is O, B-X or I-X."""
    return _TAG.fullmatch(tag) is not None


def repaired(tags: Sequence[str]) -> list[str]:
    """The tags with each I-X that follows neither B-X nor I-X made B-X, as CoNLL's own scorer reads them.

    What IOB1 means is kept too: there I-X begins an entity, and B-X stands between two of one type.

    Args:
        tags: the tags of one sentence; what is no entity tag is left as it is.
    """
    found = []
    before = "O"
    for tag in tags:
        if tag.startswith("I-") and (before[:2] not in ("B-", "I-") or before[2:] != tag[2:]):
            tag = "B-" + tag[2:]
        found.append(tag)
        before = tag
    return found
