"""Schemes: seqeval's strict mode says which spans a scheme's tags hold."""

import itertools

import pytest
from helpers.schemed import write_in
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from hyperloader.data import DataError, check_bio, spans
from hyperloader.data.records import make_record
from hyperloader.data.schemes import SCHEMES, faults, parse_tag, read_scheme, to_bio

SEQEVAL = {"bio": IOB2, "iob1": IOB1, "iobes": IOBES, "bilou": BILOU}


def strict(scheme, tags):
    """The spans that seqeval's strict mode finds, as `spans` gives them."""
    found = Entities([list(tags)], scheme=SEQEVAL[scheme]).entities[0]
    return [(one.tag, one.start, one.end) for one in found]


@st.composite
def bio_tags(draw):
    tags = []
    for name, length in draw(st.lists(st.tuples(st.sampled_from(["O", "x", "y"]), st.integers(1, 3)), min_size=1)):
        tags += ["O"] * length if name == "O" else [f"B-{name}"] + [f"I-{name}"] * (length - 1)
    return tags


def corpus(*sentences, path="train.conll"):
    return [
        make_record(
            ["w"] * len(tags), list(tags), path, 10 * number, tuple(range(10 * number, 10 * number + len(tags)))
        )
        for number, tags in enumerate(sentences, 1)
    ]


def tags_of(converted, split="train"):
    return [list(sentence.tags) for sentence in converted[split]]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(bio_tags())
def test_what_is_converted_has_the_spans_that_seqeval_finds_in_the_original(scheme, tags):
    written = write_in(scheme, tags)
    assert list(faults(scheme, written)) == []
    assert to_bio(written) == tags
    assert spans(to_bio(written)) == strict(scheme, written) == strict("bio", tags)


MARKS = {"bio": "BI", "iob1": "BI", "iobes": "BIES", "bilou": "BILU"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_without_faults_are_read_as_seqeval_reads_them(scheme):
    """All of up to four tags of two types that the scheme allows."""
    known = ["O", *(f"{mark}-{name}" for mark in MARKS[scheme] for name in "xy")]
    every = [tags for length in (1, 2, 3, 4) for tags in itertools.product(known, repeat=length)]
    allowed = [tags for tags in every if not list(faults(scheme, tags))]
    assert len(allowed) > 100
    for tags in allowed:
        assert spans(to_bio(tags)) == strict(scheme, tags)


@given(st.lists(st.sampled_from(["O", *(f"{mark}-{name}" for mark in "BIES" for name in "xy")]), min_size=1))
def test_repair_reads_as_conlleval_does(tags):
    repaired = to_bio(tags)
    check_bio(repaired)
    assert spans(repaired) == [(name, first, last + 1) for name, first, last in get_entities(tags)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_found_and_named(scheme):
    tags = ["B-x", "I-x", "I-x", "O", "B-y", "B-y", "I-y", "O"]
    converted, notes = read_scheme({"train": corpus(["O"], write_in(scheme, tags))})
    assert tags_of(converted) == [["O"], tags]
    expected = [] if scheme == "bio" else [f"the tags are {scheme.upper()}; 3 spans were converted to BIO"]
    assert notes == expected
    again, _ = read_scheme({"train": corpus(["O"], write_in(scheme, tags))}, scheme)
    assert again == converted


def test_all_splits_are_counted_together():
    """The validation part alone would be strict BIO, but for the reading of the train part."""
    splits = {"train": corpus(["I-x", "I-x", "B-x"]), "validation": corpus(["O", "O"])}
    converted, notes = read_scheme(splits)
    assert tags_of(converted) == [["B-x", "I-x", "B-x"]]
    assert notes == ["the tags are IOB1; 2 spans were converted to BIO"]


def test_other_letters_of_iobes():
    converted, _ = read_scheme({"train": corpus(["B-x", "M-x", "E-x", "W-y"])})
    assert tags_of(converted) == [["B-x", "I-x", "I-x", "B-y"]]


STRAY = (["B-x", "I-x", "B-y"], ["O", "I-y", "B-x"], ["I-x", "O", "I-x"], ["B-x", "B-y", "O"])


def test_a_stray_tag_is_one_line_with_counts_places_and_the_remedy():
    with pytest.raises(DataError) as error:
        read_scheme({"train": corpus(*STRAY)})
    assert str(error.value) == (
        "train.conll:21: tag 2 'I-y' starts a span; write 'B-y'; 3 of 12 tags break BIO (also at train.conll:30, "
        "train.conll:32); correct them, or set tags: repair, which starts a span there"
    )


def test_repair_starts_a_span_there_and_says_so():
    converted, notes = read_scheme({"train": corpus(*STRAY)}, "repair")
    assert tags_of(converted) == [["B-x", "I-x", "B-y"], ["O", "B-y", "B-x"], ["B-x", "O", "B-x"], ["B-x", "B-y", "O"]]
    assert notes == ["3 of 12 tags break BIO and were repaired, train.conll:21: tag 2 'I-y' starts a span; write 'B-y'"]
    good = ["B-x", "I-x", "O"]
    assert read_scheme({"train": corpus(good)}, "repair")[1] == []


@pytest.mark.parametrize(
    ("sentences", "tags", "message"),
    [
        ((["B-x", "E-x"], ["B-x", "O"]), None, ":21: tag 2 'O' stands where the span of type x has not ended"),
        ((["B-x", "E-x"], ["S-x", "B-x"]), None, ":21: tag 2 'B-x' is the last tag, and the span of type x has not"),
        ((["B-x", "L-x"], ["I-x"]), None, ":20: tag 1 'I-x' starts a span; write 'B-x' or 'U-x'"),
        ((["B-x", "E-x"], ["U-x"]), None, ":20: tag 1 'U-x' is no iobes tag"),
        (
            (["B-x", "I-x"],),
            "iob1",
            "follows no x, where iob1 has 'I-x'; 1 of 2 tags break IOB1; the tags are BIO: set",
        ),
        (
            (["S-x", "O"],),
            "bio",
            "'S-x' is no BIO tag; write 'B-x'; 1 of 2 tags break BIO; the tags are IOBES: set tags",
        ),
        ((["city", "O", "o"],), None, ":10: tag 1 'city' is no BIO tag; write 'O', 'B-<type>' or"),
        ((["city", "O", "o"],), "repair", "'I-<type>', the type without white space; 2 of 3 tags are none: 'city' (1)"),
    ],
)
def test_what_breaks_every_scheme_is_refused_with_its_place(sentences, tags, message):
    with pytest.raises(DataError) as error:
        read_scheme({"train": corpus(*sentences)}, tags)
    assert message in str(error.value)


def test_splits_of_two_schemes_are_named():
    splits = {"train": corpus(["I-x", "O", "B-y"], ["B-x", "I-x"]), "test": corpus(["B-x", "E-x"], path="test.conll")}
    with pytest.raises(DataError, match="tags: repair"):
        read_scheme(splits)
    splits["train"] = corpus(["I-x", "B-x"])
    with pytest.raises(DataError, match="train is IOB1, test is IOBES: convert the others with hyperloader data conv"):
        read_scheme(splits)


def test_a_tag_is_a_mark_and_a_type():
    assert parse_tag("O") == ("O", "")
    assert parse_tag("B-x-y") == ("B", "x-y")
    for tag in ("", "o", "B-", "X-y", "city", "b-x", "B_x", "B-a b"):
        assert parse_tag(tag) is None


@pytest.mark.parametrize("scheme", ["iob1", "iobes", "bilou"])
def test_real_data_in_other_schemes(data_folder, scheme):
    """Every sentence of ATIS and MIT Restaurant comes back as it is from a corpus in another scheme."""
    from hyperloader.data import read_split

    for name in ("atis", "mit_restaurant"):
        for split in ("train", "validation", "test"):
            gold = read_split(data_folder / name / f"{split}.jsonl")
            records = [
                make_record(one.tokens, write_in(scheme, one.tags), split, number) for number, one in enumerate(gold, 1)
            ]
            converted, notes = read_scheme({split: records})
            assert converted[split] == gold
            assert notes[0].startswith(f"the tags are {scheme.upper()}; ")
            for sentence, record in list(zip(gold, records, strict=True))[:200]:
                assert spans(sentence.tags) == strict(scheme, record.tags)
