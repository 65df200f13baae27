"""Every kind of task as text: what is read, what is written and labelled, what cannot be."""

import re

import pytest
import torch
from helpers import text_run

from hyperloader.data.as_text import AsText
from hyperloader.data.inline_tags import read_inline, write_inline
from hyperloader.data.kinds import Kind
from hyperloader.data.labelled_text import LabelledText
from hyperloader.data.sentence import DataError, Sentence
from hyperloader.data.wording import TextModel
from hyperloader.data.written_text import Chat, WrittenText
from hyperloader.nn.loss import IGNORED

LABELS = {"tag": ["O", "B-x", "I-x"], "prompt": [], "class": ["a", "ab", "b"], "chat": [], "pair": ["same", "other"]}
LABELS["copy"] = []
KINDS = {
    "prompt": Kind("completion"),
    "class": Kind("classification"),
    "chat": Kind("chat"),
    "pair": Kind("classification", pair=True),
    "copy": Kind("text-to-text"),
}
MESSAGES = (
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "so?"},
)


@pytest.fixture(scope="module")
def tokens():
    return text_run.tokenizer()


@pytest.fixture(scope="module")
def sequence_tokens():
    return text_run.tokenizer(sequence=True)


def formulation(tokenizer, causal=True, **changes):
    kinds = {task: kind for task, kind in KINDS.items() if causal or kind.name not in ("completion", "chat")}
    labels = {task: names for task, names in LABELS.items() if task == "tag" or task in kinds}
    options = {"max_length": 60, **changes}
    context = options.pop("context", None)
    return AsText(tokenizer, labels, kinds, TextModel(causal, context, None if causal else 0), **options)


def one(found, task, sentence, use_tags=True):
    (example,) = found.encode(found.tasks.index(task), sentence, 0, use_tags=use_tags)
    return example


def read_and_written(tokenizer, example):
    """What an example of a decoder reads, and what is labelled, as text."""
    labelled = [number != IGNORED for number in example.labels]
    start = labelled.index(True)
    assert all(labelled[start:]) and example.labels[start:] == example.input_ids[start:]
    return tokenizer.decode(example.input_ids[:start]), tokenizer.decode(example.input_ids[start:])


@pytest.mark.parametrize(
    ("task", "sentence", "read", "written"),
    [
        ("tag", Sentence(("in", "new", "york"), ("O", "B-x", "I-x")), "in new york ->", " in [ new york | x ]<|eos|>"),
        ("prompt", WrittenText("1 + 1 =", " 2\n"), "1 + 1 =", " 2\n<|eos|>"),
        ("class", LabelledText("red", None, "ab"), "red ->", " ab<|eos|>"),
        ("pair", LabelledText("red", "blue", "other"), "sentence1: red sentence2: blue ->", " other<|eos|>"),
        ("copy", WrittenText("red", "dark red"), "red ->", " dark red<|eos|>"),
    ],
)
def test_a_decoder_is_trained_on_what_it_writes_alone(tokens, task, sentence, read, written):
    found = formulation(tokens)
    assert read_and_written(tokens, one(found, task, sentence)) == (read, written)
    asked = one(found, task, sentence, use_tags=False)
    shared = found.trees[task].beginning if task in found.trees else []  # by all labels, which are scored
    assert tokens.decode(asked.input_ids) == read + tokens.decode(shared) and asked.labels == ()


def test_an_encoder_decoder_reads_the_source_and_writes_the_target(sequence_tokens):
    found = formulation(sequence_tokens, causal=False)
    example = one(found, "copy", WrittenText("red", "dark red"))
    assert sequence_tokens.decode(example.input_ids) == "red<|eos|>"
    assert sequence_tokens.decode(example.labels) == "dark red<|eos|>"
    example = one(found, "tag", Sentence(("in", "rome"), ("O", "B-x")))
    assert sequence_tokens.decode(example.labels) == "in [ rome | x ]<|eos|>"


def test_the_task_is_named_where_the_model_is_not_told_it(tokens):
    found = formulation(tokens, name_tasks=True)
    assert tokens.decode(one(found, "class", LabelledText("red", None, "a")).input_ids) == "class: red -> a<|eos|>"
    assert tokens.decode(one(found, "prompt", WrittenText("red", None), False).input_ids) == "red"


def test_the_loss_of_a_chat_is_on_the_assistants_turns_token_by_token(tokens):
    """Against the mask that transformers finds by the template's own marks."""
    found = formulation(tokens)
    reply = {"role": "assistant", "content": "no, red"}
    example = one(found, "chat", Chat(MESSAGES, reply))
    options = {"return_assistant_tokens_mask": True, "return_dict": True}
    expected = tokens.apply_chat_template([*MESSAGES, reply], **options)
    assert list(example.input_ids) == expected["input_ids"]
    masked = [
        number if mask else IGNORED
        for number, mask in zip(expected["input_ids"], expected["assistant_masks"], strict=True)
    ]
    assert list(example.labels) == masked and sum(label != IGNORED for label in masked) > 4
    asked = one(found, "chat", Chat(MESSAGES, None), use_tags=False)
    assert (
        tokens.decode(asked.input_ids)
        == "<|user|>hi<|end|>\n<|assistant|>yes<|end|>\n<|user|>so?<|end|>\n<|assistant|>"
    )
    assert asked.input_ids == example.input_ids[: len(asked.input_ids)]


def test_a_template_that_rewrites_earlier_messages_is_refused():
    tokens = text_run.tokenizer()
    tokens.chat_template = "{{ messages | length }}" + text_run.TEMPLATE
    with pytest.raises(
        ValueError, match="must end an assistant's turn with a special token, got '2<|user|>".replace("|", r"\|")
    ):
        formulation(tokens)
    tokens.chat_template = text_run.TEMPLATE.replace("{% for", "{% if messages | length > 3 %}long{% endif %}{% for", 1)
    with pytest.raises(DataError, match="^a.jsonl:3: the chat template writes what stands before message 2 otherwise"):
        one(formulation(tokens), "chat", Chat(MESSAGES, {"role": "assistant", "content": "a"}, "a.jsonl", 3))
    tokens.chat_template = "{{ raise_exception('no systems') }}"
    with pytest.raises(ValueError, match="the chat template refuses the messages: no systems"):
        formulation(tokens)
    tokens.chat_template = None
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        formulation(tokens)


def test_what_is_too_long_is_cut_and_counted(tokens):
    found = formulation(tokens, max_length=12)
    example = one(found, "copy", WrittenText("red " * 20, "blue " * 20))
    read, written = read_and_written(tokens, example)
    assert read.startswith("red red") and read.endswith(" ->") and len(tokens(read).input_ids) == 12
    assert len(tokens(written).input_ids) == 12 and not written.endswith("<|eos|>")
    assert (found.report["copy"].truncated, found.report["copy"].cut_targets) == (1, 1)
    wider = formulation(tokens, max_length=24)
    example = one(wider, "pair", LabelledText("red " * 40, "blue", "same"))
    assert "sentence2: blue ->" in tokens.decode(example.input_ids) and wider.report["pair"].truncated == 1
    one(found, "chat", Chat(({"role": "user", "content": "a"},), {"role": "assistant", "content": "b " * 30}))
    assert found.report["chat"].truncated == 1
    with pytest.raises(DataError, match="^a:2: the assistant writes nothing in the first 12 tokens of the chat; raise"):
        one(
            found,
            "chat",
            Chat(({"role": "user", "content": "a " * 30},), {"role": "assistant", "content": "b"}, "a", 2),
        )


def test_a_source_leaves_room_for_what_follows_in_the_context(tokens):
    found = formulation(tokens, context=24)
    target = " dark red" * 3
    read, written = read_and_written(tokens, one(found, "copy", WrittenText("blue " * 40, target.strip())))
    assert written == target + "<|eos|>" and read.endswith(" ->") and len(tokens(read).input_ids) == 12
    read, written = read_and_written(tokens, one(found, "class", LabelledText("red " * 40, None, "a")))
    longest = max(len(found.wording.target(label)) for label in LABELS["class"])
    assert written == " a<|eos|>" and len(tokens(read).input_ids) == 24 - longest
    assert (found.report["copy"].truncated, found.report["copy"].cut_targets) == (1, 0)
    tagged = found.encode(0, Sentence(("red", "in", "rome") * 8, ("B-x", "O", "O") * 8), 0)
    assert max(len(example.input_ids) for example in tagged) <= 24 and found.report["tag"].cut_targets == 0
    found = formulation(tokens, context=24, max_length=10)
    assert len(tokens(read_and_written(tokens, one(found, "copy", WrittenText("blue " * 9, "a")))[0]).input_ids) == 10
    with pytest.raises(DataError, match="^a:2: the longest label of task 'pair' has .* context of 8 leaves no room"):
        one(formulation(tokens, context=8), "pair", LabelledText("red", "blue", "same", "a", 2))


def test_a_prompt_is_never_cut(tokens):
    found = formulation(tokens, max_length=12, context=20)
    long = WrittenText("red " * 30, "blue", "a.jsonl", 7)
    with pytest.raises(
        DataError,
        match="^a.jsonl:7: the prompt has 3[0-9] tokens, and training.max_length leaves room for 12; shorten it, or",
    ):
        one(found, "prompt", long)
    with pytest.raises(
        DataError,
        match="^a.jsonl:7: the prompt has 3[0-9] tokens, and the backbone's context leaves room for 19; shorten it$",
    ):
        one(found, "prompt", long, use_tags=False)
    assert one(found, "prompt", WrittenText("red " * 8, None), use_tags=False).labels == ()


def test_long_sentences_are_tagged_in_windows(tokens):
    found = formulation(tokens, max_length=24)
    words, tags = ("red", "in", "rome") * 8, ("B-x", "O", "O") * 8
    examples = found.encode(0, Sentence(words, tags), 0)
    assert len(examples) > 2 and found.report["tag"].split_sentences == 1 and found.report["tag"].truncated == 0
    assert tuple(word for example in examples for word in example.words) == words
    rows = [[number for number in example.labels if number != IGNORED] for example in examples]
    assert max(map(len, rows)) <= 24 and found.decode(examples, rows) == [list(tags)]


TAGGED = [
    (("fly", "to", "new", "york"), ("O", "O", "B-city", "I-city")),
    (("a", "a", "a"), ("B-x", "B-x", "O")),
    (("[", "|", "]", "\\[", "x"), ("B-x", "I-x", "O", "B-|", "B-]")),
    (("to",), ("O",)),
]


@pytest.mark.parametrize(("words", "tags"), TAGGED)
def test_inline_tags_come_back(words, tags):
    assert read_inline(write_inline(words, tags), words) == list(tags)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", ["O", "O", "O"]),
        ("fly to [ rome", ["O", "O", "O"]),
        ("fly to [ rome | city", ["O", "O", "B-city"]),
        ("to [ rome | city ] rome", ["O", "O", "B-city"]),
        ("fly to [ paris | city ]", ["O", "O", "B-city"]),  # in the place of rome
        ("] | ] [ | x ] fly", ["O", "O", "O"]),
        ("[ fly [ to | a ] rome | b ]", ["O", "B-a", "O"]),
    ],
)
def test_whatever_is_written_becomes_tags(text, tags):
    assert read_inline(text, ("fly", "to", "rome")) == tags


@pytest.mark.parametrize("labels", [["b", "a", "A"], ["b", "a", "a<|eos|>"], ["b", "a<|eos|>", "a"]])
@pytest.mark.parametrize("causal", [True, False])
def test_labels_that_the_tokenizer_cannot_tell_apart_are_named(labels, causal):
    from tokenizers.normalizers import Lowercase

    tokens = text_run.tokenizer(sequence=not causal)
    tokens.backend_tokenizer.normalizer = Lowercase()
    message = f"task 't u': labels must differ in their tokens, got {labels[1]!r} and {labels[2]!r}, which the model's"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        AsText(tokens, {"t u": labels}, {"t u": Kind("classification")}, TextModel(causal, None, None if causal else 0))


def test_labels_that_are_none_of_the_task_are_refused(sequence_tokens):
    found = formulation(sequence_tokens, causal=False)
    with pytest.raises(ValueError, match="label of task 'class' must be one of its labels, got 'c'"):
        one(found, "class", LabelledText("red", None, "c"))
    with pytest.raises(ValueError, match="^f:1: task 'class' is one of single texts"):
        one(found, "class", LabelledText("red", "blue", "a", "f", 1))


def test_tokens_of_the_batch_are_padded_by_the_end_token_where_there_is_no_other():
    tokens = text_run.tokenizer()
    tokens.pad_token = None
    found = formulation(tokens)
    examples = [one(found, "copy", WrittenText("red", "blue")), one(found, "prompt", WrittenText("a", "b"))]
    batch = found.collate(examples)
    assert batch["input_ids"][1, -1] == tokens.eos_token_id and batch["attention_mask"][1, -1] == 0
    assert torch.equal(batch["labels"] != IGNORED, (batch["labels"] == batch["input_ids"]) & (batch["labels"] >= 0))
