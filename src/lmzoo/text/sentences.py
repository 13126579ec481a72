"""Where sentences start, by rules for English and Chinese.

A scan for stops and line breaks, and a few questions at each: tens of megabytes a second, where
trained splitters read a hundredth of that and want a download. The parts are a partition of the text:
the white space between two sentences belongs to the following one.

What ends a sentence:

- a line break, always;
- ``。！？；`` with the stops and the closing quotes or brackets that follow, unless a comma, a colon or a
  dash goes on; an ellipsis likewise where a quote or bracket closes after it;
- ``.``, ``!``, ``?`` or an ellipsis, with what closes after it, before white space and anything but a
  small letter; a full stop not after a title, an initial, an abbreviation or the number of a list, an
  ellipsis not before "I";
- ``!`` or ``?`` right before a Chinese character.

A dash (``——``) never ends one, nor does a bare ellipsis in running Chinese: both stand inside
sentences as often (GB/T 15834-2011, sections 4.10 and 4.11). A straight quote right after a stop is
taken to close.
"""

from __future__ import annotations

import re

from lmzoo.errors import one_of

WAYS = ("split", "lines")

# Together Unicode's White_Space, as the tokenizers' pre-tokenisation has it; str.isspace has four more.
_BLANK = "\t \xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_LINE_BREAK = "\n\v\f\r\x85\u2028\u2029"
WHITE_SPACE = _LINE_BREAK + _BLANK
"""Inside the brackets of a regex: Unicode's White_Space."""
_CLOSING = "\"'”’»)\\]}」』）】》〉〕`*_"
_OPENING = "\"'“‘«(\\[{「『（【《〈〔`*_¿¡§•–—-"
_WIDE = "。｡！？；"

WIDE_STOP = f"[{_WIDE}…][{_WIDE}….!?]*[{_CLOSING}]*"
"""Regex of the stops after which a sentence may start without white space between. A tokenizer that
cuts its words here too gives the same pieces sentence by sentence as for the whole text."""

_CANDIDATE = re.compile(f"([{_WIDE}….!?]++)([{_CLOSING}]*+)|[{_LINE_BREAK}][{WHITE_SPACE}]*+")
_LINES = re.compile(f"[{_LINE_BREAK}][{WHITE_SPACE}]*+")
_NEXT = re.compile(f"[{_BLANK}]++(?:[{_OPENING}]++[{_BLANK}]*+)?+(.?)", re.DOTALL)
_SPACES = "".join(chr(c) for c in range(0x3001) if re.match(f"[{WHITE_SPACE}]", chr(c)))
_LINE_END = frozenset(("", *_LINE_BREAK))
_NOT_A_START = frozenset("，、：,:;.!?…)]}%—")
_HAN_OR_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufa6d]")


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Never the end of a sentence.
_NEVER = _words(
    "Mr Mrs Ms Messrs Mme Mlle Dr Drs Prof Rev Hon Capt Col Gen Lt Lieut Sgt Maj Cmdr Adm Gov Sen Rep Pres "
    "Supt Insp Mt Ft e.g E.g i.e I.e vs Vs viz cf Cf ca approx"
)
# Not before a number.
_BEFORE_NUMBER = _words(
    "No Nos no nos Fig Figs fig figs Eq Eqs eq eqs Sec Sect sec sect Ch Chap ch chap Vol Vols vol vols Art "
    "art Bk bk Pt pt pp ff p v c d b n"
)
# Only before a word that starts sentences more often than it stands in a name; likewise initials and
# abbreviations with stops inside (U.S., a.m., Ph.D.).
_MAYBE = _words(
    "etc Etc Inc Ltd Co Corp Bros Jr Sr Esq al Ave Blvd Rd St Ste Dept Univ Assn eds Eds trans Trans "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Fig Figs Eq Eqs Sect Chap Vol Vols"
)
_STARTER = re.compile(
    "(?:A|An|The|I|He|She|It|We|You|They|This|That|These|Those|There|Then|Here|His|Her|Its|Our|Your|Their|My|"
    "But|And|Or|So|If|In|On|At|By|For|From|To|With|While|When|Where|What|Who|Why|How|As|After|Before|Since|"
    "Although|Though|However|Some|Many|Most|All|Not|Now|One|Two|Once|Both|Each|Every|Even|Yet|Such|Also)"
    r"(?![\w.])"
)
_STOPS_INSIDE = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+")
_LIST_NUMBER = re.compile(r"\d{1,3}(?:\.\d{1,3})*|[ivxIVX]+|[A-Za-z]")
_FIRST_PERSON = re.compile(r"I\b")
_LONGEST_WORD = 16
_BEFORE_WORD = _SPACES + "\"'“‘«([{「『（【《〈〔`*_§–—-"


def sentence_spans(text: str, how: str) -> list[int]:
    """Offsets in characters at which the sentences of a text start.

    Args:
        text: a document.
        how: ``split`` by rules, or ``lines`` where the text has one sentence a line.

    Returns:
        Rising offsets, the first 0. A sentence runs to where the next starts, the last to the end;
        none is white space alone unless the whole text is.

    Raises:
        LmzooError: ``how`` is neither.
    """
    one_of("data.sentences", how, WAYS)
    end = len(text.rstrip(_SPACES))
    starts = [0]
    start = 0
    for match in (_CANDIDATE if how == "split" else _LINES).finditer(text, 0, end):
        if match.lastindex is None:
            boundary = match.start()
            while boundary > start and text[boundary - 1] in _SPACES:
                boundary -= 1
        else:
            boundary = match.end()
            if text[boundary : boundary + 1] in _LINE_END or not _ends_sentence(text, start, match):
                continue
        if start < boundary < end:
            start = boundary
            starts.append(start)
    return starts


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether a run of stops and what closes after it (groups 1 and 2) ends the sentence begun at
    ``start``; more follows on the line."""
    stops, closers = match.groups()
    last = stops[-1]
    following = _NEXT.match(text, match.end())
    if any(stop in _WIDE for stop in stops) or (last == "…" and closers and following is None):
        return text[match.end()] not in _NOT_A_START
    if following is None:
        return last in "!?" and _HAN_OR_KANA.match(text, match.end()) is not None
    first = following[1]
    if first in _LINE_END or first in _NOT_A_START or first.islower():
        return False
    if stops == ".":
        return not _abbreviates(text, start, match.start(), following.start(1))
    return last in "!?" or _FIRST_PERSON.match(text, following.start(1)) is None


def _abbreviates(text: str, start: int, stop: int, following: int) -> bool:
    """Whether the full stop at ``stop`` belongs to its word and not to the sentence begun at ``start``;
    the next word is at ``following``."""
    nearest = max(start, stop - _LONGEST_WORD)  # no further: a line may have no space in a million words
    word_start = max(nearest, text.rfind(" ", nearest, stop) + 1)
    word = text[word_start:stop].lstrip(_BEFORE_WORD)
    if word in _NEVER or (word in _BEFORE_NUMBER and text[following].isdigit()):
        return True
    if word in _MAYBE or (len(word) == 1 and word.isupper()) or _STOPS_INSIDE.fullmatch(word):
        return _STARTER.match(text, following) is None
    at_start = stop - start <= _LONGEST_WORD and text[start:stop].lstrip(_BEFORE_WORD) == word
    return at_start and _LIST_NUMBER.fullmatch(word) is not None
