"""Encoding whole sentences for their heads, alone and beside tagging, and reading what these answer."""

from types import SimpleNamespace

import pytest
import torch

from hyperloader.data import Sentence, TokenClassification
from hyperloader.data.heads import make_formulation
from hyperloader.data.kinds import Kind
from hyperloader.data.labelled_text import LabelledText

LABELS = {"slots": ["O", "B-city", "I-city"], "intent": ["a", "b"], "topics": ["p", "q", "r"], "similar": ["value"]}
KINDS = {
    "intent": Kind("classification"),
    "topics": Kind("multi-label"),
    "similar": Kind("regression", True, 3.0, 2.0),
}
SENTENCES = {
    "slots": [Sentence(("show", "denver"), ("O", "B-city"))],
    "intent": [LabelledText("show me", None, "b"), LabelledText("me", None, "a")],
    "topics": [LabelledText("show me the flights", None, ("p", "r"))],
    "similar": [LabelledText("show", "me flights", 7.0)],
}


@pytest.fixture
def make(make_tokenizer):
    def make(kind="wordpiece", **options):
        tokenizer = make_tokenizer(kind)
        return make_formulation("token-classification", tokenizer, LABELS, **{"kinds": KINDS, **options})

    return make


def test_a_batch_of_every_kind(make):
    formulation = make()
    encoded = formulation.encode_all(SENTENCES)
    batch = formulation.collate([one for some in encoded.values() for one in some])
    assert batch["task_ids"].tolist() == [0, 1, 1, 2, 3]
    assert batch["labels"][1:3, 0].tolist() == [1, 0]
    assert (batch["labels"][3:] == -100).all() and (batch["labels"][1:, 1:] == -100).all()
    nan = torch.nan
    expected = torch.tensor([[nan] * 3, [nan] * 3, [nan] * 3, [1, 0, 1], [2, nan, nan]])
    torch.testing.assert_close(batch["targets"], expected, equal_nan=True)
    assert "token_type_ids" not in batch
    alone = TokenClassification(formulation.tokenizer, {"slots": LABELS["slots"]}).encode(0, SENTENCES["slots"][0], 0)
    assert encoded["slots"] == alone


def test_nothing_of_the_labels_reaches_a_prediction(make):
    formulation = make()
    blank = {"intent": [LabelledText(one.text, None, None) for one in SENTENCES["intent"]]}
    asked = [formulation.encode_all(some, use_tags=False) for some in ({"intent": SENTENCES["intent"]}, blank)]
    assert asked[0] == asked[1]
    pair = formulation.encode_all({"similar": SENTENCES["similar"]}, use_tags=False)["similar"][0]
    assert pair.targets == () and set(pair.labels) == {-100}


def test_what_the_heads_say_becomes_labels_and_values(make):
    formulation = make()
    examples = [one for some in formulation.encode_all(SENTENCES).values() for one in some]
    logits = torch.full((5, 16, 3), -torch.inf)
    logits[0], logits[1, :, :2], logits[2, :, :2] = (
        torch.tensor([0.0, 2.0, 1.0]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([0.0, 3.0]),
    )
    logits[3], logits[4, :, 0] = torch.tensor([2.0, -1.0, 0.5]), -1.5

    def model(**inputs):
        return SimpleNamespace(logits=logits)

    answers = formulation.ask(model, {}, examples)
    assert [answer.ids for answer in answers[1:]] == [[0], [1], [0, 2], [0.0]]
    assert answers[1].probabilities == pytest.approx([0.7310586, 0.2689414])
    assert answers[3].probabilities == pytest.approx([0.8807971, 0.2689414, 0.6224593])
    decoded = formulation.decode(examples, [answer.ids for answer in answers])
    assert decoded == [["B-city", "B-city"], "a", "b", ("p", "r"), 0.0]
    shuffled = [4, 2, 0, 3, 1]
    again = formulation.decode([examples[n] for n in shuffled], [answers[n].ids for n in shuffled])
    assert again == [decoded[n] for n in shuffled]


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "metaspace"])
def test_long_texts_are_cut_and_counted(make, kind):
    formulation = make(kind, max_length=8)
    long, short = LabelledText("show me the flights " * 9, None, "a"), LabelledText("me", None, "a")
    examples = formulation.encode_all({"intent": [long, short, long]})["intent"]
    assert [len(one.input_ids) for one in examples][::2] == [8, 8]
    report = formulation.report["intent"]
    assert (report.sentences, report.windows, report.truncated, report.words) == (3, 3, 2, 73)
    formulation.encode_all({"similar": [LabelledText("me", "show me the flights " * 9, 1.0)]})
    assert formulation.report["similar"].truncated == 1
    whole = formulation.encode(0, Sentence(("show",) * 40, ("O",) * 40), 0)  # tagging goes on with windows
    assert len(whole) > 1


def test_segments_tell_the_texts_of_a_pair_apart(make_tokenizer):
    """As the tokenizer has them; sentences without are filled with zeros."""
    from tokenizers import processors

    tokenizer = make_tokenizer("wordpiece")
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    before = tokenizer.backend_tokenizer.post_processor
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    try:
        formulation = make_formulation("token-classification", tokenizer, LABELS, kinds=KINDS, segments=True)
        some = formulation.encode_all({"similar": SENTENCES["similar"], "intent": SENTENCES["intent"]})
        pair, *texts = [one for of_task in some.values() for one in of_task]
    finally:
        tokenizer.backend_tokenizer.post_processor = before
    first = pair.segments.index(1)
    assert pair.segments == (0,) * first + (1,) * (len(pair.input_ids) - first)
    segments = formulation.collate([pair, *texts])["token_type_ids"]
    assert segments[0].tolist() == list(pair.segments) and not segments[1:].any()
    assert "token_type_ids" not in formulation.collate(texts)


@pytest.mark.parametrize(
    ("task", "example", "message"),
    [
        ("similar", LabelledText("a", None, 1.0, "f.jsonl", 3), "f.jsonl:3: task 'similar' is one of pairs"),
        ("intent", LabelledText("a", "b", "a"), "task 'intent' is one of single texts"),
        ("intent", LabelledText("a", None, "z"), "label of task 'intent' must be one of its labels, got 'z'"),
        ("topics", LabelledText("a", None, ("p", "z")), "label of task 'topics' must be one of its labels, got 'z'"),
        ("similar", LabelledText("a", "b", None), "label of task 'similar' must be a number, got None"),
    ],
)
def test_what_does_not_fit_its_task_is_refused(make, task, example, message):
    with pytest.raises(ValueError, match=message):
        make().encode_all({task: [example]})


def test_a_text_to_text_model_has_no_heads(letters_tokenizer):
    with pytest.raises(ValueError, match="task 'topics' of kind multi-label needs head: token-classification"):
        make_formulation("text-to-text", letters_tokenizer, LABELS, kinds=KINDS)
