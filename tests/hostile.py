"""Texts that nobody would write and that somebody's corpus has, for the property-based tests.

The same examples in every run: what CI refuses today it refused yesterday.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

settings.register_profile(
    "lmzoo",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("lmzoo")

PLANES = range(17)
MARKS = [
    *(chr(number) for number in range(0x20)),
    *(chr(number) for number in range(0x7F, 0xA1)),
    *"\xad\u034f\u061c\u070f\u180e\ufeff\ufff9\ufffa\ufffb\ufffc\ufffd\ufffe\uffff",
    *(chr(number) for number in range(0x2000, 0x2010)),  # spaces, joiners, marks of direction
    *"\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u202f\u205f\u2060\u2066\u2067\u2068\u2069\u3000",
    *"\ufe0e\ufe0f\U000e0001\U000e0020\U000e007f\U0001f3fb\U0001f1e6\U0010ffff\U0001fffe\ue000\U000f0000",
]
"""Controls, spaces of every width, joiners, marks of direction, byte-order marks, what is no character."""
COMBINING = [chr(number) for first, last in ((0x300, 0x36F), (0x591, 0x5C7), (0x64B, 0x65F), (0x93A, 0x94F),
             (0x1AB0, 0x1ABE), (0x20D0, 0x20F0), (0x302A, 0x302D)) for number in range(first, last)]  # fmt: skip
RIGHT_TO_LEFT = [*"אבגדה", *"ابتثج", *"ܐܒܓ", *"ހށނ", "\U00010840", "\U0001e900"]
HALVES = [chr(number) for number in (0xD800, 0xD83D, 0xDBFF, 0xDC00, 0xDE00, 0xDFFF)]
"""Half of a surrogate pair each; no encoding can write one."""
PHRASES = [
    *(
        "[SEP]",
        " [MASK] ",
        "[PAD][CLS]",
        "[UNK]",
        "[UNK_NUMBER]",
        "<|endoftext|>",
        "##ing",
        "##",
        "Ġthe",
        "Ċ",
    ),
    *(
        "</w>",
        "▁",
        "don't",
        "Mr. Smith",
        "U.S.A. ",
        "e.g. 5",
        "No. 5",
        "...",
        "?!?!",
        "…”",
        "。”“",
        "！）",
        "——",
    ),
    *("\r\n", "\n\n", "\n\n\n  \n", "\t", "  ", "   \n", ". ", "。 ", "! 好", "1.", "(a) ", "etc. "),
    *(
        "The cat sat. ",
        "我们在学习。",
        "naïve",
        "CAFÉ",
        "Zürich",
        "ﬁ",
        "İstanbul",
        "ẞß",
        "Å",
        "ﷺ",
        "각",
        "각",
    ),
    *("👩‍👩‍👧", "🏳️‍🌈", "1️⃣", "🇩🇪", "Z̸̧̢̛a̵l̶g̷o", "١٢٣", "½", "²", "Ⅳ", "㊿", "𝔘𝔫𝔦", "\u202eabc\u202c", "a" * 120),
]
"""Special tokens spelt out, the marks of vocabularies, stops, and letters that case folding or accents make longer."""


def _anywhere(plane: int) -> st.SearchStrategy[str]:
    first = plane << 16
    numbers = st.integers(first, first + 0xFFFF)
    return numbers.map(lambda number: chr(number if not 0xD800 <= number < 0xE000 else number - 0x800))


CHARACTERS = st.one_of(
    st.sampled_from(PLANES).flatmap(_anywhere),
    st.sampled_from(MARKS),
    st.sampled_from(COMBINING),
    st.sampled_from(RIGHT_TO_LEFT),
    st.sampled_from("abcXYZ019 .,'’”好。！"),
)
"""One character of any plane; half a surrogate pair never."""
TEXTS = st.lists(
    st.one_of(CHARACTERS, CHARACTERS, st.sampled_from(PHRASES), st.text(max_size=8)), max_size=24
).map("".join)
"""A text of all of these."""


def every_plane(seed: int = 0, *, each: int = 40) -> list[str]:
    """A text of drawn characters for each of the 17 planes, their first and last characters among them."""
    draw = random.Random(seed)
    texts = []
    for plane in PLANES:
        first = plane << 16
        numbers = [first, first + 0xFFFF, *(first + draw.randrange(0x10000) for _ in range(each))]
        texts.append("".join(chr(n) for n in numbers if not 0xD800 <= n < 0xE000))
    return texts


def documents(count: int = 60, seed: int = 0) -> list[str]:
    """Documents of such characters and phrases with ordinary sentences between, none of them blank."""
    draw = random.Random(seed)
    pool = [*MARKS, *COMBINING, *RIGHT_TO_LEFT, *PHRASES]
    made = every_plane(seed)
    for number in range(count - len(made)):
        pieces = [draw.choice(pool) for _ in range(draw.randrange(1, 30))]
        pieces += ["The cat sat on the mat. ", "我们在学习语言模型。"] * draw.randrange(1, 6)
        draw.shuffle(pieces)
        made.append("".join(pieces) + f"{number}")
    return made
