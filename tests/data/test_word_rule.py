"""Words parted from punctuation as the training data part them."""

import itertools
import json
import time

import pytest

from hyperloader.data.word_rule import WordRule, split_at_spaces

TREEBANK = [
    [
        "``",
        "I",
        "do",
        "n't",
        "know",
        ",",
        "''",
        "said",
        "Mr.",
        "Smith",
        "--",
        "of",
        "the",
        "U.S.",
        ",",
        "not",
        "Smith",
        "'s",
        "well-known",
        "firm",
        ".",
    ],
    ["It", "cost", "$", "1,000.50", "(", "or", "3.5", "%", ")", "..."],
    ["Nobody", "came", "."],
]
RUNNING = [["don", "'", "t", "pay", "$", "1", ".", "50", ",", "well", "-", "known", "friend", "."]]
TWEETS = [["@anna", "loves", "#pizza", "!"], ["so", "does", "@ben", ":)"]]


def words(rule: WordRule, text: str) -> list[str]:
    return [text[start:end] for start, end in rule.split(text)]


@pytest.mark.parametrize(
    ("data", "text", "expected"),
    [
        ([["show", "flights"]], "Show flights, please!", "Show flights , please !"),
        ([["o'clock"]], "At 5 o'clock?", "At 5 o'clock ?"),
        (TREEBANK, "``I don't,'' said Mr. Jones.", "`` I do n't , '' said Mr. Jones ."),
        (
            TREEBANK,
            "The U.S., and (Smith's) well-known $2,000.75...",
            "The U.S. , and ( Smith 's ) well-known $ 2,000.75 ...",
        ),
        (RUNNING, "don't pay $3.50, well-known.", "don ' t pay $ 3 . 50 , well - known ."),
        (TWEETS, "@carl likes #pasta! :)", "@carl likes #pasta ! :)"),
        ([], "", ""),
        ([], "\ufeffa\u00a0b  ...", "a b . . ."),
        ([["x"]], "caf\u00e9, nai\u0308ve; \u4f60\u597d\u3002", "caf\u00e9 , nai\u0308ve ; \u4f60\u597d \u3002"),
        ([["x"]], "?!", "? !"),
    ],
)
def test_punctuation_is_parted_as_in_the_data(data, text, expected):
    assert words(WordRule.learn(data), text) == expected.split()


@pytest.mark.parametrize("data", [TREEBANK, RUNNING, TWEETS])
def test_the_data_s_own_words_come_back(data):
    rule = WordRule.learn(data)
    for tokens in data:
        assert words(rule, " ".join(tokens)) == tokens


def test_the_more_frequent_way_wins():
    assert words(WordRule.learn([["to", "Rome.", "to", "Paris."], ["now", "."]]), "to Oslo.") == ["to", "Oslo."]
    assert words(WordRule.learn([["to", "Rome."], ["now", ".", "then", "."]]), "to Oslo.") == ["to", "Oslo", "."]


def test_offsets_cover_every_character_but_white_space():
    text = " ``It's  (3.5)\u00a0% -- U.S.,\ufeff ok... "
    for data in (TREEBANK, RUNNING, TWEETS, []):
        found = WordRule.learn(data).split(text)
        assert all(start < end for start, end in found)
        assert all(before <= start for (_, before), (start, _) in itertools.pairwise(found))
        assert "".join(text[start:end] for start, end in found) == "".join(text.replace("\ufeff", "").split())


def test_json_and_back():
    rule = WordRule.learn(TREEBANK)
    assert WordRule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    for bad in ({}, {"whole": [], "begin": ""}, {"whole": [1]}, {"whole": [], "start": 3}):
        with pytest.raises((TypeError, ValueError, KeyError)):
            WordRule.from_dict(bad)


def test_spaces():
    assert split_at_spaces(" a  b.\u00a0c\n") == [(1, 2), (4, 6), (7, 8)]


@pytest.mark.parametrize("text", ["." * 20_000, "#" + "." * 20_000, "'s" * 10_000, "-" * 9_999 + "a" + "-" * 9_999])
def test_a_long_run_of_marks_takes_no_longer_than_other_text(text):
    rule = WordRule.learn([*TREEBANK, *TWEETS, ["-" * 5_000]])  # a ruler in the data, too
    start = time.perf_counter()
    found = rule.split(text)
    assert time.perf_counter() - start < 2
    assert "".join(text[first:after] for first, after in found) == text


def test_runs_of_marks_are_parted_as_short_ones_are():
    rule = WordRule.learn(TREEBANK)
    assert words(rule, "." * 7) == ["...", "...", "."]
    assert words(rule, "so--...--'s") == words(rule, "so -- ... -- 's")
