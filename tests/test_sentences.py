"""Sentence splitting as literal tables: a bar stands where the next sentence starts."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest

from lmzoo.errors import LmzooError
from lmzoo.text.sentences import sentence_spans

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"

ENGLISH = [
    "He came.| She left!| Did they?| Yes.",
    "Mr. Smith met Dr. Jones and Mrs. Hall.| They spoke.",
    "Prof. Ada Byron, Lt. Kije and Messrs. Dodson agreed.",
    "J. R. R. Tolkien wrote it.| He was born in 1892.| C. S. Lewis was a friend.",
    "So do I.| Then we agree.",
    "It was made by hand, e.g. by Anna, i.e. Mrs. Hall, cf. Smith, vs. The Crown.",
    "We bought apples, pears, etc. and ate.| We had cheese, wine, etc.| The rest was lost.",
    "The U.S. Army came.| He lives in the U.S.| He likes it.",
    "At 5 a.m. Monday it rained.| It ended at 6 p.m.| The sun rose.",
    "See No. 5 and Fig. 3, vol. 2, pp. 10 of Smith et al. 1999.| No.| He said no.",
    "Did you go?| No.| I did not.",
    "On Jan. 5 it snowed, and in Dec. 1999 too.",
    "Smith & Co. Ltd. made it.| John Jones Jr. lives there.",
    "Pi is 3.14 or so.| Python 3.11.2 and python.org are fine.| It costs $5.| 7 remain.",
    "In 1999.| Then in 2000.| 12 came.",
    "1. The first point.| 2. The second.",
    "\n1. The first.|\n2. The second.|\n(a) The third.",
    "“I say.”| He left.| “Go!” he cried.| “Why?”| She wept.",
    '"I say."| He left.| "Go!" he cried.| (They went.)| [All of them.]| *So they did.*| "Good."',
    "He said ‘no.’| She said “‘yes.’”| “Oh,” I said.",
    "Well... I do not know.| He waited...| Then he left.| She … paused… and went…| He stayed.",
    "What?!| No!!!| Really?...| Yes.",
    "First; then second; The third: Done.| End.",
    "He stopped—Then he went.| — And she?| – So.",
    "¿Qué?| ¡No!| Élan came. éclair stays.| Été too.",
    "It was Ph.D. Smith.| (See Sect. 3.)| He wrote to St. Paul.",
    "A heading|\nThe text.| And a wrapped\tline|\n\n \n Next.",
    "\n\n  Leading and trailing space.  \n\n",
    "One.|\r\nTwo.|\u2028Three.|\u2029Four.|\x0cFive.|\x85Six.",
    "One.|\u00a0Two.|\u3000Three.|\u3000\u00a0\nFour.\u3000",
    "No stop at all",
    "...",
    'foo .| Bar said " no . "|\n Next .',
    "One.\x1cTwo.| Three",
    "",
]

CHINESE = [
    "你好。|我来了！|你呢？|好；|走吧。",
    "他说：“你好。”|然后走了。",
    "“你好！”|他说。",
    "“好。”，他说。|（他来了。）|我走了。|【完。】|《书。》|完",
    "「好。」|『走！』|她说。",
    "他问：‘真的？’|“真的。”|“我走了。”",
    "什么？！|真的！！！|不……我……不知道。|他走了……",
    "“我……”|他说。|“我……”，他说。|“我……”|“你？”",
    "好！……|我走了。",
    "牡丹、水仙、墨兰……春秋冬三季的鲜花都挤在一起啦！|真美。",
    "“我——”他说——走了。——完",
    "“走！”——他喊道。",
    "你好!|我们走吧?|好.不好",
    "圆周率是3.14。|2008年，美国U.S.公司增长5.7%。|IMF总裁说Python3.11好。",
    "第一行|\n第二行。|\n\n　　第三行。|　第四行。",
    "English.| 中文。|English again.| 中文.| 又一句",
    "他说OK.| Then he left。|好",
    "半角｡|又一句",
    "何ですか？|はい。|「そう。」|終わり!|ア",
]


@pytest.mark.parametrize("marked", ENGLISH + CHINESE)
def test_split(marked: str) -> None:
    text = marked.replace("|", "")
    assert "|".join(_parts(text, "split")) == marked


def test_lines() -> None:
    text = " One. Two.\n\n Three。四。\r\nFive \n"
    assert _parts(text, "lines") == [" One. Two.", "\n\n Three。四。", "\r\nFive \n"]


def test_unknown_way() -> None:
    with pytest.raises(LmzooError, match=r"data\.sentences=words is not known; choose one of: split, lines"):
        sentence_spans("One.", "words")


def _parts(text: str, how: str) -> list[str]:
    starts = sentence_spans(text, how)
    assert starts[0] == 0
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


@pytest.mark.parametrize(
    "text",
    ["." * 300_000 + "x", "。" * 300_000 + "”" * 300_000, " " * 300_000, "\n" * 300_000, "? " * 150_000],
    ids=["dots", "stops and quotes", "spaces", "breaks", "questions"],
)
def test_time_is_linear(text: str) -> None:
    start = time.process_time()
    sentence_spans(text, "split")
    assert time.process_time() - start < 20.0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize("name", ["pretrain/books.valid.txt.gz", "zh/wikipedia_zh.train.txt.gz"])
@pytest.mark.parametrize("how", ["split", "lines"])
def test_partition_of_real_text(name: str, how: str) -> None:
    text = gzip.decompress((SHARED / name).read_bytes()).decode()
    parts = _parts(text, how)
    assert "".join(parts) == text
    assert all(part.strip() for part in parts)
    if how == "split":
        assert 20 < len(text) / len(parts) < 150
    else:
        assert [part.strip() for part in parts] == [line.strip() for line in text.split("\n") if line.strip()]
