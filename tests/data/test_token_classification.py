import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperloader.data import Sentence, TokenClassification, check_bio

LABELS = {"s": ["O", "B-x", "I-x"], "t": ["O", "B-city", "I-city", "B-day", "I-day"]}
KINDS = ["wordpiece", "bytes", "metaspace"]


@st.composite
def sentences(draw):
    tags = []
    for kind, length in draw(
        st.lists(st.tuples(st.sampled_from([None, "city", "day"]), st.integers(1, 9)), min_size=1, max_size=6)
    ):
        tags += ["O"] * length if kind is None else [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
    words = st.sampled_from(["show", "Denver", "tomorrow", "日本", "m" + "e" * 15, "a", ",.", "[CLS]"])
    return Sentence(tuple(draw(words) for _ in tags), tuple(tags))


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_stands_at_the_first_subword(make_tokenizer, kind):
    tokenizer = make_tokenizer(kind)
    sentence = Sentence(("flights", "to", "Denver", "tomorrow"), ("O", "O", "B-city", "B-day"))
    (example,) = TokenClassification(tokenizer, LABELS).encode(1, sentence, 3)
    encoding = tokenizer(list(sentence.tokens), is_split_into_words=True)
    assert list(example.input_ids) == encoding["input_ids"]
    firsts = [encoding.word_ids().index(word) for word in range(4)]
    assert example.first_subwords == tuple(firsts)
    assert [example.labels[position] for position in firsts] == [0, 0, 1, 3]
    assert sum(label != -100 for label in example.labels) == 4
    assert (example.task_id, example.sentence_id, example.word_count) == (1, 3, 4)
    assert len(example.input_ids) > 4 + 2


@pytest.mark.parametrize("kind", KINDS)
@given(sentence=sentences(), max_length=st.sampled_from([6, 12, 128, 512]))
def test_gold_tags_come_back_whatever_the_windows(make_tokenizer, kind, sentence, max_length):
    formulation = TokenClassification(make_tokenizer(kind), LABELS, max_length)
    examples = formulation.encode(1, sentence, 0)
    assert all(len(example.input_ids) <= max_length for example in examples)
    assert all(len(example.input_ids) == len(example.labels) for example in examples)
    assert sum(example.word_count for example in examples) == len(sentence.tokens)
    assert formulation.decode(examples, [example.labels for example in examples]) == [list(sentence.tags)]
    assert formulation.decode(examples, formulation.collate(examples)["labels"]) == [list(sentence.tags)]
    report = formulation.report["t"]
    assert report.windows == len(examples)
    assert report.split_sentences == (len(examples) > 1)


def test_many_sentences_at_once_equal_one_by_one(make_tokenizer):
    formulation = TokenClassification(make_tokenizer("wordpiece"), LABELS, 16)
    some = [Sentence(("show",) * number, ("B-city",) + ("I-city",) * (number - 1)) for number in (1, 3, 20, 2, 9)] * 500
    together = formulation.encode_all({"t": some})["t"]
    alone = [example for number, sentence in enumerate(some) for example in formulation.encode(1, sentence, number)]
    assert together == alone


def test_a_word_without_subwords_is_kept_predicted_outside_and_counted(make_tokenizer):
    formulation = TokenClassification(make_tokenizer("wordpiece"), LABELS)
    (example,) = formulation.encode(1, Sentence(("show", "\u200b", "me"), ("B-city", "I-city", "I-city")), 0)
    assert example.first_subwords[1] == -1
    assert formulation.report["t"].no_subwords == 1
    row = [2] * len(example.input_ids)
    assert formulation.decode([example], [row]) == [["B-city", "O", "B-city"]]


def test_words_longer_than_a_window_are_cut_and_counted(make_tokenizer):
    formulation = TokenClassification(make_tokenizer("wordpiece"), LABELS, 8)
    tokenizer = formulation.tokenizer
    examples = formulation.encode(1, Sentence(("me", "m" + "e" * 40, "me"), ("O", "B-city", "O")), 0)
    assert [example.word_count for example in examples] == [1, 1, 1]
    assert len(examples[1].input_ids) == 8
    assert examples[1].input_ids[0] == tokenizer.cls_token_id
    assert examples[1].input_ids[-1] == tokenizer.sep_token_id
    report = formulation.report["t"]
    assert (report.cut_words, report.over_tokens, report.split_sentences, report.windows) == (1, 1, 1, 3)


def test_cut_spans_are_counted(make_tokenizer):
    formulation = TokenClassification(make_tokenizer("wordpiece"), LABELS, 2 + 3)
    tokens = ("a",) * 6
    assert [e.word_count for e in formulation.encode(1, Sentence(tokens, ("O",) * 6), 0)] == [3, 3]
    formulation.encode(1, Sentence(tokens, ("O", "O", "B-day", "I-day", "B-city", "O")), 0)
    assert formulation.report["t"].cut_spans == 1


@given(data=st.data())
def test_any_labels_give_bio_of_the_right_length(make_tokenizer, data):
    formulation = TokenClassification(make_tokenizer("wordpiece"), LABELS, 8)
    examples = formulation.encode(1, Sentence(("show",) * 7, ("O",) * 7), 0)
    rows = [[data.draw(st.integers(0, 4)) for _ in example.input_ids] for example in examples]
    (tags,) = formulation.decode(examples, rows)
    assert len(tags) == 7
    check_bio(tags)


def test_every_task_has_its_own_label_ids(make_tokenizer):
    formulation = TokenClassification(make_tokenizer("wordpiece"), LABELS)
    examples = formulation.encode_all({"t": [Sentence(("a",), ("B-day",))], "s": [Sentence(("a",), ("B-x",))]})
    batch = formulation.collate(examples["t"] + examples["s"])
    assert batch["task_ids"].tolist() == [1, 0]
    assert batch["labels"][:, 1].tolist() == [3, 1]
    assert formulation.decode(examples["t"] + examples["s"], batch["labels"]) == [["B-day"], ["B-x"]]


def test_what_cannot_be_encoded_or_decoded_is_refused(make_tokenizer):
    formulation = TokenClassification(make_tokenizer("wordpiece"), LABELS)
    with pytest.raises(ValueError, match="task must be one of 's', 't', got 'u'"):
        formulation.encode_all({"u": []})
    with pytest.raises(ValueError, match="tags of task 's' must be among its labels, got 'B-city'"):
        formulation.encode(0, Sentence(("a",), ("B-city",)), 0)
    examples = formulation.encode(0, Sentence(("a",), ("O",)), 0)
    with pytest.raises(ValueError, match="from 0 to 2, got 3"):
        formulation.decode(examples, [[3, 3, 3]])
    with pytest.raises(ValueError, match="cover the example's 3 tokens, got 1"):
        formulation.decode(examples, [[0]])
    with pytest.raises(ValueError, match=r"one row an example \(1\), got 0"):
        formulation.decode(examples, [])


@pytest.mark.parametrize(
    ("labels", "max_length", "message"),
    [
        ({}, 128, "at least one name"),
        ({"t": ["B-x", "I-x"]}, 128, "must hold 'O'"),
        ({"t": ["O", "B-x", "B-x"]}, 128, "no label twice"),
        ({"t": ["O"]}, 2, "max_length must be at least 3, got 2"),
    ],
)
def test_bad_arguments_are_refused(make_tokenizer, labels, max_length, message):
    with pytest.raises(ValueError, match=message):
        TokenClassification(make_tokenizer("wordpiece"), labels, max_length)


def test_unfit_tokenizers_are_refused(make_tokenizer):
    with pytest.raises(ValueError, match="add_prefix_space=True"):
        TokenClassification(make_tokenizer("bytes-without-space"), LABELS)
    with pytest.raises(ValueError, match="must be a fast tokenizer, got object"):
        TokenClassification(object(), LABELS)
