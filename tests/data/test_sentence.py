import tracemalloc

import pytest

from hyperloader.data import DataError, Sentence, make_sentence


def test_a_good_sentence():
    assert make_sentence(["to", "denver"], ["O", "B-city"], "x:1") == Sentence(("to", "denver"), ("O", "B-city"))
    assert make_sentence(["to", "denver"], None, "x:1").tags == ("O", "O")


def test_a_sentence_is_as_long_as_its_tags():
    with pytest.raises(ValueError, match="got 1 tags for 2 tokens"):
        Sentence(("a", "b"), ("O",))


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        ([], [], "the sentence is empty"),
        (["a", "b"], ["O"], "got 2 tokens and 1 tags"),
        (["a", ""], ["O", "O"], "token 2 is empty"),
        (["a b"], ["O"], "token 1 'a b' holds white space"),
        (["a\u00a0b"], ["O"], "holds white space"),
        (["a\n"], ["O"], "holds white space"),
        (["\ud800"], ["O"], "surrogate"),
        ("ab", ["O", "O"], "tokens must be a list of text, got str"),
        (["a", 3], ["O", "O"], "tokens must be a list of text, got 3 at position 2"),
        (["a"], [None], "tags must be a list of text, got None at position 1"),
        (["a"], {"O": 1}, "tags must be a list of text, got dict"),
        (["a"], ["I-x"], "tag 1 'I-x' starts a span; write 'B-x'"),
    ],
)
def test_every_fault_is_named_with_its_place(tokens, tags, message):
    with pytest.raises(DataError) as error:
        make_sentence(tokens, tags, "file.jsonl:7")
    assert str(error.value).startswith("file.jsonl:7: ")
    assert message in str(error.value)


def test_long_tokens_are_not_kept():
    """What a server is sent would fill its memory: 131,072 of them were."""
    tracemalloc.start()
    for number in range(20):
        make_sentence([str(number) * 500_000, "short"], None, "x:1")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2_000_000
    with pytest.raises(DataError, match="holds white space"):
        make_sentence(["a" * 100 + " b"], None, "x:1")
