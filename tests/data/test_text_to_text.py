import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperloader.data import DataError, Sentence, TextToText, check_bio, load_tasks, parse_target, simplify

TYPES = ["a", "city", "x.y_z"]


@st.composite
def sentences(draw):
    tags = []
    for kind, length in draw(
        st.lists(st.tuples(st.sampled_from([None, *TYPES]), st.integers(1, 40)), min_size=1, max_size=8)
    ):
        tags += ["O"] * length if kind is None else [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
    words = ["a", "bc", "abcdefghij" * 3, "~", "<extra_id_3>", "</s>", "<pad>", "日"]
    return Sentence(tuple(draw(st.sampled_from(words)) for _ in tags), tuple(tags))


def text(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_the_format_is_the_published_one(t5_tokenizer):
    formulation = TextToText(t5_tokenizer, ["atis"])
    sentence = Sentence(
        ("flights", "to", "New", "York", "now"), ("O", "O", "B-toloc.city_name", "I-toloc.city_name", "O")
    )
    (example,) = formulation.encode(0, sentence, 7)
    source = "<extra_id_0> flights <extra_id_1> to <extra_id_2> New <extra_id_3> York <extra_id_4> now <extra_id_5>"
    target = "<extra_id_0> O <extra_id_1> O <extra_id_2> toloc.city_name <extra_id_3> I <extra_id_4> O <extra_id_5>"
    assert list(example.input_ids) == t5_tokenizer(source).input_ids
    assert list(example.labels) == t5_tokenizer(target).input_ids
    assert (example.task_id, example.sentence_id, example.window, example.windows, example.word_count) == (
        0,
        7,
        0,
        1,
        5,
    )


def test_real_sentences_are_encoded_as_their_text(t5_tokenizer, data_folder, tmp_path):
    (tmp_path / "tasks.yaml").write_text(f"tasks: [{{name: mtop, path: '{data_folder}/mtop'}}]")
    (task,) = load_tasks(tmp_path / "tasks.yaml")
    examples = TextToText(t5_tokenizer, ["mtop"]).encode_all({"mtop": task.test})["mtop"]
    assert len(examples) == len(task.test)
    for example, sentence in zip(examples[::10], task.test[::10], strict=True):
        for ids, entries in ((example.input_ids, sentence.tokens), (example.labels, simplify(sentence.tags))):
            parts = [f"<extra_id_{number}> {entry}" for number, entry in enumerate(entries)]
            assert list(ids) == t5_tokenizer(" ".join([*parts, f"<extra_id_{len(entries)}>"])).input_ids


@given(sentences(), st.sampled_from([24, 40, 128, 1000]), st.booleans())
def test_gold_tags_come_back_whatever_the_windows(letters_tokenizer, sentence, max_length, use_tags):
    formulation = TextToText(letters_tokenizer, ["t"], max_length)
    examples = formulation.encode(0, sentence, 0, use_tags=use_tags)
    for formulation.decoding in ("sentinel", "position"):
        assert formulation.decode(examples, [example.labels for example in examples]) == [list(sentence.tags)]
    assert sum(example.word_count for example in examples) == len(sentence.tokens)
    assert all(example.word_count <= 99 for example in examples)
    assert all(len(example.input_ids) <= max_length for example in examples)
    if use_tags:
        assert all(len(example.labels) <= max_length for example in examples)
    for example in examples:
        ids = list(example.input_ids)
        places = [ids.index(sentinel) for sentinel in formulation.sentinels[: example.word_count + 1]]
        assert places == sorted(places)
        assert places[0] == 0
        assert ids[-1] == letters_tokenizer.eos_token_id
        special = {*letters_tokenizer.all_special_ids, *formulation.sentinels} - {letters_tokenizer.unk_token_id}
        assert sum(number in special for number in ids) == example.word_count + 2


@pytest.mark.parametrize(
    ("written", "by_sentinel", "by_position"),
    [
        ("<0> O <1> city <2> I <3>", "O B-city I-city", "O B-city I-city"),
        ("<0> O <2> city <3> I", "O O B-city", "O B-city I-city"),  # number 1 is left out
        ("<0> <1> city <2> I <3>", "O B-city I-city", "B-city I-city O"),  # a tag is left out
        ("<0> O O <1> city <2> I <3>", "O B-city I-city", "O O B-city"),  # a tag is written twice
        ("<0> O <0> O <0> city <1> I", "O O O", "O O B-city"),  # a number comes again
        ("I city <0> a <1> <2> I <3>", "B-a O O", "O B-city B-a"),  # tags before the first number
        ("<0> O </s> city I", "O O O", "O B-city I-city"),
        ("<0> ☃ <1> city", "B-<unk> B-city O", "B-city O O"),  # what the tokenizer cannot spell is a special token too
        ("", "O O O", "O O O"),
        ("a a a a a", "O O O", "B-a B-a B-a"),
    ],
)
def test_a_broken_target_by_sentinel_and_by_position(letters_tokenizer, written, by_sentinel, by_position):
    text = re.sub(r"<(\d)>", r"<extra_id_\1>", written)
    row = [*letters_tokenizer(text, add_special_tokens=False).input_ids, 0, 0, -100]
    for decoding, expected in (("sentinel", by_sentinel), ("position", by_position)):
        formulation = TextToText(letters_tokenizer, ["t"], decoding=decoding)
        examples = formulation.encode(0, Sentence(("a", "b", "c"), ("O", "O", "O")), 0)
        assert formulation.decode(examples, torch.tensor([row])) == [expected.split()]


def test_by_position_a_window_that_writes_too_little_leaves_the_next_one_alone(letters_tokenizer):
    sentence = Sentence(("abcdef",) * 4, ("B-a", "O", "B-a", "O"))
    formulation = TextToText(letters_tokenizer, ["t"], max_length=20, decoding="position")
    examples = formulation.encode(0, sentence, 0, use_tags=False)
    assert [example.word_count for example in examples] == [2, 2]
    short, whole = letters_tokenizer(["<extra_id_0> a", "<extra_id_0> a <extra_id_1> a"]).input_ids
    assert formulation.decode(examples, [short, whole]) == [["B-a", "O", "B-a", "B-a"]]
    assert formulation.decode(examples, [[*whole, *whole], whole]) == [["B-a"] * 4]


def test_an_unknown_decoding_is_refused(letters_tokenizer):
    with pytest.raises(ValueError, match="decoding must be one of sentinel, position, got 'words'"):
        TextToText(letters_tokenizer, ["t"], decoding="words")


@settings(max_examples=40)
@given(sentences())
def test_words_alone_choose_the_windows_of_evaluation(letters_tokenizer, sentence):
    formulation = TextToText(letters_tokenizer, ["t"], 40)
    unknown_values = Sentence(sentence.tokens, ("O",) * len(sentence.tokens))
    seen = [formulation.encode(0, one, 0, use_tags=False) for one in (sentence, unknown_values)]
    assert [example.input_ids for example in seen[0]] == [example.input_ids for example in seen[1]]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["<extra_id_0>", "<extra_id_2>", "<extra_id_99>", "</s>", "<pad>", "I", "O", " city", "<unk>"]
            ),
            st.text(max_size=5),
        )
    ).map("".join),
    st.integers(0, 6),
)
def test_any_text_gives_a_tag_a_word(decoded, length):
    assert len(parse_target(decoded, length)) == length


@given(st.lists(st.one_of(st.just(-100), st.integers(0, 169)), max_size=40), st.integers(1, 130))
def test_any_ids_give_bio_of_the_right_length(letters_tokenizer, ids, length):
    formulation = TextToText(letters_tokenizer, ["t"], 200)
    examples = formulation.encode(0, Sentence(("a",) * length, ("O",) * length), 0)
    (tags,) = formulation.decode(examples, [ids] * len(examples))
    assert len(tags) == length
    check_bio(tags)


def test_a_target_is_read_by_the_numbers_of_its_sentinels():
    assert parse_target("<pad> <extra_id_0> O<extra_id_1> city<extra_id_2></s> <extra_id_0> x", 2) == ["O", "city"]
    assert parse_target("<extra_id_1> city <extra_id_0> day", 3) == ["day", "city", "O"]
    assert parse_target("x <extra_id_0> <extra_id_0> city", 1) == ["O"]
    assert parse_target("<extra_id_0> two words <extra_id_7> x", 2) == ["two", "O"]
    assert parse_target("<extra_id_" + "9" * 5000 + "> x", 1) == ["O"]


def test_99_words_fit_and_100_do_not(letters_tokenizer):
    formulation = TextToText(letters_tokenizer, ["t"], 1000)
    for words, windows in ((99, 1), (100, 2), (199, 3)):
        assert len(formulation.encode(0, Sentence(("a",) * words, ("O",) * words), 0)) == windows
    report = formulation.report["t"]
    assert (report.sentences, report.words, report.windows) == (3, 398, 6)
    assert (report.over_words, report.over_tokens, report.split_sentences) == (2, 0, 2)


def test_a_long_target_parts_a_sentence_in_training_only(letters_tokenizer):
    tags = tuple("B-" + "x" * 10 for _ in range(4))
    for use_tags, windows, long_targets in ((True, 2, 0), (False, 1, 1)):
        formulation = TextToText(letters_tokenizer, ["t"], 30)
        examples = formulation.encode(0, Sentence(("a",) * 4, tags), 0, use_tags=use_tags)
        report = formulation.report["t"]
        assert (len(examples), report.windows, report.long_targets) == (windows, windows, long_targets)


def test_training_windows_do_not_cut_spans_and_the_cut_ones_are_counted(letters_tokenizer):
    sentence = Sentence(("a",) * 12, ("O",) * 5 + ("B-city",) + ("I-city",) * 5 + ("O",))
    formulation = TextToText(letters_tokenizer, ["t"], 2 + 3 * 9)
    borders = [example.word_count for example in formulation.encode(0, sentence, 0)]
    assert borders == [5, 7]
    assert formulation.report["t"].cut_spans == 0
    formulation.encode(0, sentence, 0, use_tags=False)
    assert formulation.report["t"].cut_spans == 1


def test_words_longer_than_a_window_are_cut_and_counted(letters_tokenizer):
    formulation = TextToText(letters_tokenizer, ["t"], 20)
    examples = formulation.encode(0, Sentence(("a", "b" * 50, "c"), ("O", "B-city", "O")), 0)
    assert [example.word_count for example in examples] == [1, 1, 1]
    assert len(examples[1].input_ids) == 20
    assert formulation.report["t"].cut_words == 1


def test_a_word_without_tokens_keeps_its_place(t5_tokenizer):
    formulation = TextToText(t5_tokenizer, ["t"])
    sentence = Sentence(("a", "\u200b", "b"), ("O", "B-city", "I-city"))
    examples = formulation.encode(0, sentence, 0)
    assert text(t5_tokenizer, examples[0].input_ids) == "<extra_id_0> a<extra_id_1><extra_id_2> b<extra_id_3></s>"
    assert formulation.decode(examples, [examples[0].labels]) == [list(sentence.tags)]
    assert formulation.report["t"].no_subwords == 1


def test_batches_mix_tasks_and_decode_from_generated_tensors(letters_tokenizer):
    formulation = TextToText(letters_tokenizer, ["s", "t"])
    examples = formulation.encode_all(
        {"t": [Sentence(("a",), ("B-x",))], "s": [Sentence(("b", "c"), ("O", "B-city")), Sentence(("d",), ("O",))]}
    )
    mixed = examples["t"] + examples["s"]
    batch = formulation.collate(mixed)
    assert batch["task_ids"].tolist() == [1, 0, 0]
    assert [example.sentence_id for example in mixed] == [0, 0, 1]
    generated = torch.cat([torch.zeros(3, 1, dtype=torch.long), batch["labels"]], dim=1)
    assert formulation.decode(mixed, generated) == [["B-x"], ["O", "B-city"], ["O"]]


def test_what_cannot_be_encoded_is_refused(letters_tokenizer):
    formulation = TextToText(letters_tokenizer, ["t"], 12)
    with pytest.raises(ValueError, match=r"task must be one of 't', got 'u'"):
        formulation.encode_all({"u": []})
    with pytest.raises(ValueError, match=r"task 't', sentence 2: tag 1 'B-I' has a type"):
        formulation.encode_all({"t": [Sentence(("a",), ("O",)), Sentence(("a",), ("B-I",))]})
    with pytest.raises(ValueError, match=r"the type 'a~b' cannot be spelled"):
        formulation.encode(0, Sentence(("a",), ("B-a~b",)), 0)
    with pytest.raises(ValueError, match=r"max_length must be at least 24 for the tags of task 't', got 12"):
        formulation.encode(0, Sentence(("a",), ("B-" + "x" * 20,)), 0)
    with pytest.raises(ValueError, match=r"one row an example \(0\), got 1"):
        formulation.decode([], [[1]])


def test_bad_arguments_are_refused(letters_tokenizer, make_tokenizer):
    with pytest.raises(ValueError, match="max_length must be at least 4, got 3"):
        TextToText(letters_tokenizer, ["t"], 3)
    with pytest.raises(ValueError, match="tasks must be distinct, got 't' 2 times"):
        TextToText(letters_tokenizer, ["t", "t"])
    with pytest.raises(TypeError, match="tasks must be text, got 3"):
        TextToText(letters_tokenizer, [3])
    with pytest.raises(ValueError, match="must have sentinels from <extra_id_0> on, got 0"):
        TextToText(make_tokenizer("wordpiece"), ["t"])
    assert issubclass(DataError, ValueError)


@pytest.mark.parametrize("begin", ["</s>", "<pad>"], ids=["bart", "t5"])
def test_what_the_decoder_begins_with_ends_no_answer(letters_tokenizer, begin):
    formulation = TextToText(letters_tokenizer, ["t"])
    sentence = Sentence(("a", "b", "c", "d"), ("B-city", "I-city", "O", "B-city"))
    examples = formulation.encode(0, sentence, 0)
    asked_for = {}

    class Model:
        def generate(self, input_ids, **options):
            asked_for.update(options)
            return torch.tensor([[letters_tokenizer.convert_tokens_to_ids(begin), *examples[0].labels]])

    answers = formulation.ask(Model(), {"input_ids": torch.tensor([examples[0].input_ids])}, examples)
    assert formulation.decode(examples, [answer.ids for answer in answers]) == [list(sentence.tags)]
    assert (asked_for["num_beams"], asked_for["no_repeat_ngram_size"], asked_for["min_length"]) == (1, 0, 0)
