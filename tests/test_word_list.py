"""Words of characters by a list: the longest match on the ids of a batch, beside one written plainly."""

from __future__ import annotations

import gzip
import random
from itertools import accumulate, chain
from pathlib import Path

import pytest
import torch

from builders import SMALL, SPECIAL, VOCAB_SIZE, batch_of
from lmzoo.assembly import tell_words
from lmzoo.config import compose
from lmzoo.errors import LmzooError
from lmzoo.modules import BertModule
from lmzoo.objectives.config import MlmConfig
from lmzoo.objectives.mlm import Mlm
from lmzoo.objectives.segmentation import LONGEST_WORD, word_list
from lmzoo.objectives.word_list import WordList
from lmzoo.sweeps.forecast import pace_of
from lmzoo.text.config import TokenizerConfig
from lmzoo.text.tokenizer import train_tokenizer
from lmzoo.text.word_list import read_words
from lmzoo.training import train
from lmzoo.types import GOES_ON
from small_runs import smallest

CLS, SEP = SPECIAL.cls, SPECIAL.sep


def test_the_longest_word_wins_and_the_walk_goes_on_behind_it():
    words = WordList([[7, 8], [8, 9, 10], [7, 8, 9], [10, 11], [12]])
    assert len(words) == 4
    batch = batch_of(
        [[[CLS, 7, 8, 9, 10, 11, SEP], [CLS, 7, 7, 8, SEP]], [[CLS, 8, 9, 7, 8], [9, 10, 11]]], 12
    )
    assert words.insides(batch).int().tolist() == [
        # 7 8 9 | 10 11, not 7 8 | 9 | 10 11 nor 7 | 8 9 10 | 11; then 7 | 7 8
        [0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0],
        # 8 | 9 | 7 8, and no 7 8 9 across the border; 9 | 10 11
        [0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
    ]


def plainly(tokens: list[int], words: set[tuple[int, ...]]) -> list[bool]:
    inside, place = [], 0
    while place < len(tokens):
        ends = range(place + 2, min(place + 5, len(tokens)) + 1)
        sizes = [end - place for end in ends if tuple(tokens[place:end]) in words]
        size = max(sizes, default=1)
        inside += [False, *[True] * (size - 1)]
        place += size
    return inside


def test_it_is_the_walk_written_plainly():
    draw = random.Random(0)
    words = {tuple(draw.choices(range(5, 12), k=draw.choice([2, 2, 3, 5]))) for _ in range(60)}
    rows = [draw.choices(range(5, 12), k=61) for _ in range(40)]
    found = WordList(words).insides(batch_of([[row] for row in rows], 61))
    assert found.tolist() == [plainly(row, words) for row in rows]


@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_words_of_the_list_are_masked_whole(unit):
    joints = torch.zeros(VOCAB_SIZE, dtype=torch.uint8)
    module = BertModule(
        MlmConfig(unit=unit, mask_rate=0.3), model=SMALL["bert"], special=SPECIAL, joints=joints
    )
    assert isinstance(module.objective, Mlm)
    module.objective.tell_words(WordList([[7, 8, 9], [10, 11]]))
    rows = [[[CLS, 7, 8, 9, 6, 10, 11, 7, 8, 9, SEP]]] * 50
    batch = batch_of(rows, 11)
    places = module.prepare(batch).predictions["mlm"].places
    chosen = torch.zeros(550, dtype=torch.bool).index_fill(0, places, True).view(50, 11)
    for part in (slice(1, 4), slice(5, 7), slice(7, 10)):
        assert torch.equal(chosen[:, part].any(1), chosen[:, part].all(1))
    assert 0 < int(chosen[:, 1].sum()) < 50
    measured = module.objective.prepare(batch, 5, training=False).predictions["mlm"].places % 11
    assert set(measured.tolist()) == set(range(1, 10))


def test_a_file_of_chinese_words(tmp_path):
    texts = ["我们的船在北京大学出发。", "北京的大学生说我们好。"] * 5
    tokenizer = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=20), texts)
    path = tmp_path / "words.txt"
    path.write_text("北京\n大学\n北京大学\n我们\n船\n\n图书馆\n", encoding="utf-8")
    words = read_words(path, tokenizer)
    # of the last one a character is unknown
    assert [list(map(len, line)) for line in words] == [[2], [2], [4], [2], [1]]
    made = word_list(words)
    assert (len(made), made.agreement) == (4, None)  # a single character says nothing
    joints = torch.from_numpy(tokenizer.joints())
    (ids,) = tokenizer.encode_batch([texts[0]])
    inside = made.insides(batch_of([[ids]], len(ids)))[0].tolist()
    assert inside == [
        False,
        True,
        *[False] * 3,
        False,
        True,
        True,
        True,
        *[False] * 3,
    ]  # 我们 的 船 在 北京大学 出 发 。
    assert not (joints[ids] & GOES_ON).any()  # without the list each is a word of its own
    path.write_text("船\n", encoding="utf-8")
    with pytest.raises(LmzooError, match="has no word that this vocabulary spells in several tokens"):
        read_words(path, tokenizer)
    with pytest.raises(LmzooError, match=r"objective\.words=.*cannot be read"):
        read_words(tmp_path / "none.txt", tokenizer)
    with pytest.raises(LmzooError, match=r"is not looked at with objective\.unit=token"):
        compose([f"objective.words={path}"])


# -- text whose words are parted


def test_a_stretch_of_several_words_is_taken_like_a_word_and_parted():
    words = WordList([[7, 8], [7, 8, 9], [9, 10], [11, 12]], {(7, 8, 9, 10): (2, 2), (11, 12): (1, 1)})
    assert len(words) == 5
    batch = batch_of([[[7, 8, 9, 10, 11, 12, 7, 8, 9, 5, 7, 8, 9], [10]]], 14)
    # 7 8 | 9 10 | 11 | 12 | 7 8 9 | 5 | 7 8 9, and over the border no 7 8 | 9 10
    assert words.insides(batch).int().tolist() == [[0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0]]
    long = WordList([range(5, 105)]).insides(batch_of([[[4, *range(5, 105), 4]]], 102))
    assert long.int().tolist() == [[0, 0, *[1] * 99, 0]]


PARTED = """\
他们 研究 生命 起源 。
她 研究 生命 科学 。

研究生 毕业 。
他 才 能 来 。
我 才 能 去 。
他们 有 才能 。
"""
"""The longest match reads 研究生 | 命, and 才能 in the three last."""


def parted(words: WordList, tokenizer, text: str) -> str:
    """A text with spaces where the list parts it."""
    (ids,) = tokenizer.encode_batch([text])
    assert len(ids) == len(text)
    inside = words.insides(batch_of([[ids]], len(ids)))[0].tolist()
    return "".join(sign if goes_on else f" {sign}" for sign, goes_on in zip(text, inside, strict=True))[1:]


@pytest.mark.parametrize("packed", [False, True])
def test_a_text_of_parted_words_says_how_they_are_parted(tmp_path, packed):
    """The list of its words alone parts it otherwise."""
    tokenizer = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=25), [PARTED] * 5)
    whole = PARTED.replace(" ", "")
    # the tokenizer does not see the spaces: the same text may be trained on
    assert tokenizer.encode_batch([PARTED]) == tokenizer.encode_batch([whole])
    path = tmp_path / ("parted.txt.gz" if packed else "parted.txt")
    with gzip.open(path, "wt", encoding="utf-8") if packed else path.open("w", encoding="utf-8") as file:
        file.write(PARTED)
    words = word_list(read_words(path, tokenizer))
    texts = ["他们研究生命起源。", "研究生毕业。", "我才能去。", "他们有才能。", "她研究生命起源。"]
    assert [parted(words, tokenizer, text) for text in texts] == [
        "他们 研究 生命 起源 。",
        "研究生 毕业 。",
        "我 才 能 去 。",
        "他们 有 才 能 。",  # as it is most often: the list knows no more of it than its characters
        "她 研究 生命 起源 。",
    ]
    assert words.agreement == pytest.approx(26 / 27)
    alone = WordList(word for line in read_words(path, tokenizer) for word in line)
    assert [parted(alone, tokenizer, text) for text in texts[:3]] == [
        "他们 研究生 命 起源 。",
        "研究生 毕业 。",
        "我 才能 去 。",
    ]
    objective = f"objective.words={path}"
    config = compose(["model=bert", "tokenizer=wordpiece", "objective.unit=word", objective])
    module = BertModule(config.objective, model=SMALL["bert"], special=tokenizer.special)
    told = f"{objective}: {len(words)} entries; 96.3% of its words are found as they are parted there"
    assert tell_words(config, module, tokenizer) == told
    known = module.objective.word_list
    assert isinstance(known, WordList)
    assert torch.equal(known.hashes, words.hashes)


def hits(by: WordList, line: list[tuple[int, ...]]) -> int:
    """How many words of a line a list finds, counted plainly."""
    row = batch_of([[[token for word in line for token in word]]], sum(map(len, line)))
    inside = [*by.insides(row)[0].tolist(), False]
    return sum(
        not inside[end - len(word)] and all(inside[end - len(word) + 1 : end]) and not inside[end]
        for word, end in zip(line, accumulate(map(len, line)), strict=True)
    )


def test_the_share_that_is_found_is_counted_plainly():
    draw = random.Random(1)
    words = [tuple(draw.choices(range(5, 8), k=draw.choice([1, 1, 2, 2, 3, 4]))) for _ in range(40)]
    lines = [draw.choices(words, k=draw.randint(1, 9)) for _ in range(200)]
    made, alone = word_list(lines), WordList(words)
    lines = [line for line in lines if len(line) > 1]
    total = sum(map(len, lines))
    assert made.agreement == pytest.approx(sum(hits(made, line) for line in lines) / total)
    assert made.agreement is not None
    assert sum(hits(alone, line) for line in lines) / total + 0.05 < made.agreement < 1


def test_a_word_that_cannot_be_spelt_ends_a_line(tmp_path):
    tokenizer = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=25), [PARTED] * 5)
    path = tmp_path / "parted.txt"
    path.write_text("他们 研究 图书馆 研究 生命\n图书馆\n", encoding="utf-8")
    found = [[tokenizer.decode(word) for word in line] for line in read_words(path, tokenizer)]
    assert found == [["他 们", "研 究"], ["研 究", "生 命"]]


def test_a_sentence_that_nobody_has_parted_does_not_make_every_batch_dear(tmp_path):
    texts = [PARTED] * 5
    tokenizer = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=25), texts)
    path = tmp_path / "parted.txt"
    long = "他们研究生命起源科学" * 500
    path.write_text(f"{PARTED}他们 {long} 研究 生命\n{long}\n", encoding="utf-8")
    words = word_list(read_words(path, tokenizer))
    alone = word_list(read_words(path, tokenizer)[:6])
    assert (words.longest, words.left_out, len(words)) == (alone.longest, 1, len(alone))
    assert words.agreement == pytest.approx(28 / 29)  # the line goes on behind it
    config = compose(["model=bert", "tokenizer=wordpiece", "objective.unit=word", f"objective.words={path}"])
    module = BertModule(config.objective, model=SMALL["bert"], special=tokenizer.special)
    told = tell_words(config, module, tokenizer)
    assert told is not None
    assert told.endswith("left out for their length of more than 24 tokens: 1")
    path.write_text(f"{long}\n", encoding="utf-8")
    with pytest.raises(LmzooError, match="has no word of 2 to 24 tokens"):
        tell_words(config, module, tokenizer)
    most = [[range(5, 5 + length)] for length in (LONGEST_WORD, LONGEST_WORD + 1)]
    assert (word_list(most).longest, word_list(most).left_out) == (LONGEST_WORD, 1)


def test_the_list_that_finds_most_is_taken():
    """What is learned for one place misleads the match at another: here it is worse than the words alone."""
    long, one = (6, 6, 6), (6,)
    lines = [[long, one, one, long, long, one], [long, long, one, one, long, long]]
    assert word_list(lines).agreement == pytest.approx(0.25)
    draw = random.Random(2)
    better = 0
    for _ in range(100):
        words = [(6,) * draw.randint(1, 4) for _ in range(3)]
        lines = [draw.choices(words, k=draw.randint(2, 8)) for _ in range(3)]
        made, alone = (
            sum(hits(by, line) for line in lines)
            for by in (word_list(lines), WordList(chain.from_iterable(lines)))
        )
        assert made >= alone, lines
        better += made > alone
    assert better > 40


def test_the_words_are_read_once_for_a_run_of_many_exports(corpus, tmp_path, monkeypatch, capsys):
    """An export under FSDP builds another module, which needs none; what foretells a run's time trains with them."""
    path = tmp_path / "words.txt"
    text = Path(corpus[0].partition("=")[2]).read_text(encoding="utf-8")
    path.write_text(text.replace("e", "e "), encoding="utf-8")
    config = smallest(
        "bert", "tokenizer=char", "objective=mlm", "objective.unit=word", f"objective.words={path}",
        "budget.steps=2", "checkpoint.log_spaced=2", *corpus,
    )  # fmt: skip
    read, trained, exported = [], [], []

    def reads(*given):
        read.append(given)
        return read_words(*given)

    def gathered(module, build):
        trained.append(module.objective.word_list)
        exported.append(build().objective.word_list)
        return module

    monkeypatch.setattr("lmzoo.assembly.read_words", reads)
    monkeypatch.setattr("lmzoo.training.gathered", gathered)
    (tmp_path / "run").mkdir()
    train(config, tmp_path / "run")
    assert len(read) == 1
    assert len(trained) == 3
    assert all(words is trained[0] and len(words) > 1 for words in trained)
    assert exported == [None] * 3
    assert f"objective.words={path}: {len(trained[0]):,} entries; " in capsys.readouterr().err
    begins = BertModule.on_train_start

    def begin(module):
        trained.append(module.objective.word_list)
        begins(module)

    monkeypatch.setattr(BertModule, "on_train_start", begin)
    pace_of(config)
    assert len(trained[-1]) == len(trained[0])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "dict.txt",
            "云计算 5\n李小福 2 nr\n生命\n创新 3 i\n",
            r"in 3 of its 3 lines.*awk '{print \$1}' dict\.txt",
        ),
        ("words.txt", "生命\nWindows 10\n", "leave the space out"),
        ("parted.jsonl", '{"text": "研究 生命"}\n', "give the text of its documents"),
        ("parted.conllu", "1\t研究\t研究\n", r"take its words by awk -F'\\t' '\$1 ~"),
        ("parted.txt", "他 2 次 研究 生命\n我 2 次\n研究 生命 2 次\n", None),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, name, text, told):
    tokenizer = train_tokenizer(TokenizerConfig(name="wordpiece", vocab_size=25), [PARTED] * 5)
    (tmp_path / name).write_text(text, encoding="utf-8")
    if told is None:
        assert read_words(tmp_path / name, tokenizer)
        return
    with pytest.raises(LmzooError, match=told):
        read_words(tmp_path / name, tokenizer)
