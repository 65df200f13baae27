import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from hyperloader.data import Sentence, check_bio, label_list, repair_bio, restore, simplify, spans

TYPES = ["city", "toloc.city_name", "news/type", "X", "B-x"]


@st.composite
def gold_tags(draw, max_spans=12):
    tags = []
    for kind, length in draw(
        st.lists(st.tuples(st.sampled_from([None, *TYPES]), st.integers(1, 5)), min_size=1, max_size=max_spans)
    ):
        tags += ["O"] * length if kind is None else [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
    return tags


def test_simplify_is_the_published_form():
    tags = ["O", "B-city", "I-city", "B-city", "B-day", "O"]
    assert simplify(tags) == ["O", "city", "I", "city", "day", "O"]


@given(gold_tags())
def test_gold_tags_come_back(tags):
    check_bio(tags)
    assert restore(simplify(tags), len(tags)) == tags


@given(gold_tags(), st.data())
def test_gold_tags_come_back_from_parts(tags, data):
    border = data.draw(st.integers(0, len(tags)))
    assert restore(simplify(tags[:border]) + simplify(tags[border:]), len(tags)) == tags


@given(
    st.lists(st.one_of(st.text(max_size=8), st.sampled_from(["I", "O", "", "city", "I-x", "B-", " I "]))),
    st.integers(0, 20),
)
def test_junk_becomes_bio_of_the_right_length(entries, length):
    tags = restore(entries, length)
    assert len(tags) == length
    check_bio(tags)


def test_restore_cuts_and_fills():
    assert restore(["I", "city", "I", "O", "I"], 3) == ["O", "B-city", "I-city"]
    assert restore(["city"], 3) == ["B-city", "O", "O"]
    assert restore(["two words", "\t"], 2) == ["B-two", "O"]


@pytest.mark.parametrize("kind", ["O", "I"])
def test_a_type_that_simplified_bio_needs_is_refused(kind):
    with pytest.raises(ValueError, match=rf"tag 2 'B-{kind}'.*rename the type '{kind}'"):
        simplify(["O", f"B-{kind}"])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "I-city"], "tag 2 'I-city' starts a span; write 'B-city'"),
        (["B-day", "I-city"], "tag 2 'I-city' starts a span; write 'B-city'"),
        (["B-city", "O", "I-city"], "tag 3 'I-city' starts a span"),
        (["S-city"], "tag 1 'S-city' is no BIO tag; write 'B-city'"),
        (["B-city", "E-city"], "tag 2 'E-city' is no BIO tag; write 'I-city'"),
        (["o"], "write 'O'"),
        ([""], "write 'O'"),
        (["B-"], "write 'O', 'B-<type>' or 'I-<type>'"),
        (["city"], "is no BIO tag"),
        (["B-two words"], "without white space"),
    ],
)
def test_check_bio_names_the_position_and_the_repair(tags, message):
    with pytest.raises(ValueError) as error:
        check_bio(tags)
    assert message in str(error.value)


@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])))
def test_repair_gives_what_seqeval_reads(tags):
    repaired = repair_bio(tags)
    check_bio(repaired)
    assert get_entities(repaired) == get_entities(tags)


@given(gold_tags())
def test_repair_leaves_bio_alone(tags):
    assert repair_bio(tags) == tags


@given(gold_tags())
def test_spans_are_those_of_seqeval(tags):
    assert spans(tags) == [(kind, first, last + 1) for kind, first, last in get_entities(tags)]


def test_label_list_is_sorted_and_complete():
    sentences = [Sentence(("a", "b"), ("B-z", "O")), Sentence(("c", "d"), ("B-a", "I-a"))]
    assert label_list(sentences) == ["O", "B-a", "I-a", "B-z", "I-z"]
    assert label_list([]) == ["O"]
