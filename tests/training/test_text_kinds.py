"""Tasks of every kind in one batch of a model that writes text: loss, scored labels, what is written."""

import dataclasses
import math
import random

import pytest
import torch
from helpers import text_run

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.data.as_text import AsText
from hyperloader.data.examples import Example
from hyperloader.data.kinds import Kind
from hyperloader.data.labelled_text import LabelledText
from hyperloader.data.sentence import Sentence
from hyperloader.data.wording import TextModel
from hyperloader.data.written_text import Chat, WrittenText
from hyperloader.nn.loss import IGNORED, text_loss_by_task
from hyperloader.training.baselines import TextWriter
from hyperloader.training.batches import TrainBatches
from hyperloader.training.evaluation import answer_examples, losses_of
from hyperloader.training.loss import SummedLoss
from hyperloader.training.run_config import RunConfig

CLASSES = ["to_rome", "to_oslo", "to", "from_rome_to_new_york"]
NAMES = list(text_run.MODELS)


def made(name):
    """A model in float64 with random trained weights, its formulation, and sentences of every task."""
    tokens = text_run.tokenizer(sequence := name in ("t5", "bart"))
    backbone = text_run.make(name, len(tokens)).double()
    tasks = text_run.BOTH_TASKS if sequence else text_run.DECODER_TASKS
    kinds = {task: Kind(kind, task == "twins") for task, kind in tasks.items() if kind != "tagging"}
    labels = {
        task: {"colours": ["O", "B-colour", "I-colour"], "which": CLASSES, "twins": ["same", "other"]}.get(task, [])
        for task in tasks
    }
    torch.manual_seed(3)
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=list(tasks), reduction_factor=4, rank=2)).double().eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.3)
    found = AsText(tokens, labels, kinds, TextModel.of(backbone.config), max_length=24)
    sentences = {task: [example(kinds.get(task), row) for row in text_run.rows(task, 2, 5)] for task in tasks}
    return model, found, sentences


def example(kind, row):
    if kind is None:
        return Sentence(tuple(row["tokens"]), tuple(row["tags"]))
    if kind.name == "classification":
        return LabelledText(row["text"], row.get("text_pair"), "to" if "to" in row["label"] else row["label"])
    if kind.name == "chat":
        return Chat(tuple(row["messages"][:-1]), row["messages"][-1])
    given, wanted = ("source", "target") if "source" in row else ("prompt", "completion")
    return WrittenText(row[given], row[wanted])


def flat(encoded):
    return [one for some in encoded.values() for one in some]


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_answers_as_its_sentences_one_by_one(name):
    model, found, sentences = made(name)
    examples = flat(found.encode_all(sentences, use_tags=False))
    together = answer_examples(model, found, examples, len(examples))
    alone = [answer_examples(model, found, [one], 1)[0] for one in examples]
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert len({tuple(one.ids) for one in together}) > 3
    for one, other in zip(together, alone, strict=True):
        assert (one.probabilities is None) == (other.probabilities is None)
        assert one.probabilities is None or one.probabilities == pytest.approx(other.probabilities, abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_one_task_merged_answers_as_unmerged(name):
    model, found, sentences = made(name)
    for task in ("which", "short"):
        examples = found.encode_all({task: sentences[task]}, use_tags=False)[task]
        before = answer_examples(model, found, examples, 2)
        after = answer_examples(model.merge(task), found, examples, 2, merged=True)
        assert [one.ids for one in before] == [one.ids for one in after]
        assert before[0].probabilities is None or before[0].probabilities == pytest.approx(
            after[0].probabilities, abs=1e-8
        )


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_scored_as_whole_forwards_score_them(name):
    """Each token's probability among those that go on to some label, from forwards without a cache."""
    model, found, sentences = made(name)
    (one,) = found.encode_all({"which": sentences["which"][:1]}, use_tags=False)["which"]
    (answer,) = answer_examples(model, found, [one], 1)
    rows = [found.wording.target(label) for label in CLASSES]
    expected = []
    for row in rows:
        total = 0.0
        for place, token in enumerate(row):
            choices = sorted({other[place] for other in rows if other[:place] == row[:place]})
            with torch.no_grad():
                logits = following_logits(model, found, sentences["which"][0], row[:place])
            total += float(logits[choices].log_softmax(0)[choices.index(token)])
        expected.append(math.exp(total))
    assert answer.probabilities == pytest.approx(expected, abs=1e-10)
    assert sum(answer.probabilities) == pytest.approx(1, abs=1e-10) and min(answer.probabilities) > 0
    assert answer.ids == [expected.index(max(expected))]
    assert found.decode([one], [answer.ids]) == [CLASSES[answer.ids[0]]]


def following_logits(model, found, sentence, begun):
    source, _ = found.wording.source([sentence.text], [True])
    if found.text_model.causal:
        return model(input_ids=torch.tensor([[*source, *begun]]), task="which").logits[0, -1]
    begun = torch.tensor([[found.text_model.decoder_start, *begun]])
    return model(input_ids=torch.tensor([source]), decoder_input_ids=begun, task="which").logits[0, -1]


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_counts_sentences_not_tokens(name):
    model, found, sentences = made(name)
    sentences["short"] = sentences["short"][:1]
    encoded = found.encode_all(sentences)
    examples, causal = flat(encoded), found.text_model.causal
    loss = SummedLoss(model, 0.0, causal)(**found.collate(examples))
    expected = 0.0
    for some in encoded.values():
        total, count = losses_of(model, found, some, 2)
        expected += len(some) * total / count
        assert count == sum(label != IGNORED for one in some for label in one.labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    smooth = SummedLoss(model, 0.1, causal)(**found.collate(examples))
    assert smooth.item() != pytest.approx(expected, rel=1e-6)


def test_a_batch_of_one_task_has_the_mean_over_its_tokens():
    logits = torch.randn(3, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, IGNORED, IGNORED], [IGNORED] * 4, [3, 4, 5, 6]])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    assert text_loss_by_task(logits, labels, torch.zeros(3).long()).item() == pytest.approx(expected.item(), rel=1e-12)


def test_perplexity_is_of_what_is_to_be_written_alone():
    model, found, sentences = made("llama")
    from hyperloader.training.evaluation import Scorer

    prompts = [WrittenText(one.given, " rome") for one in sentences["answer"]]
    score = Scorer(found, {"answer": prompts, "short": sentences["short"]}, 2)
    scores = score(model)["tasks"]
    assert set(scores["short"]) == {"exact_match", "rouge_l", "sentences"}
    ids = [found.wording.prompt(one.given) for one in prompts]
    target, total = found.wording.completion(" rome"), 0.0
    for prompt in ids:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *target]]), task="answer").logits[0, len(prompt) - 1 : -1]
        total += float(-logits.log_softmax(-1)[range(len(target)), target].sum())
    assert scores["answer"]["perplexity"] == pytest.approx(math.exp(total / (2 * len(target))), rel=1e-10)
    assert found.report["answer"].sentences == 2  # each once


def test_a_baseline_is_asked_alike():
    _, found, sentences = made("llama")
    plain = TextWriter(text_run.make("llama", len(found.tokenizer)).double())
    examples = flat(found.encode_all(sentences, use_tags=False))
    together = answer_examples(plain, found, examples, len(examples))
    assert [one.ids for one in together] == [answer_examples(plain, found, [one], 1)[0].ids for one in examples]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_new_task_is_asked_without_a_head(name):
    model, found, sentences = made(name)
    model.add_task("new", init="short")
    again = AsText(
        found.tokenizer, {**found.labels, "new": []}, {**found.kinds, "new": Kind("text-to-text")}, found.text_model, 40
    )
    rows = again.encode_all({"new": sentences["short"], "short": sentences["short"]}, use_tags=False)
    new, short = ([one.ids for one in answer_examples(model, again, some, 3)] for some in rows.values())
    assert new == short


def test_decoders_have_wider_buckets_and_little_padding():
    """Lengths as of a tagging, an intent and a pair task."""
    options = {"backbone": "a", "tasks": "b", "output": "c"}
    assert RunConfig(**options).options.bucket == 8
    assert RunConfig(**options, head="language-model", training={"bucket": 4}).options.bucket == 4
    decoder = RunConfig(**options, head="language-model", training={"batch_size": 16}).options
    draw = random.Random(0)
    examples = [
        [Example(task, n, 0, 1, (1,) * max(4, round(draw.gauss(mean, mean / 3))), (1,), 0) for n in range(400)]
        for task, mean in enumerate((60, 20, 16, 63))
    ]
    shares = []
    for bucket in (1, decoder.bucket):
        batches = TrainBatches(
            dataclasses.replace(decoder, bucket=bucket), examples, lambda some: {}, 0, lambda: 0, 0, 1
        )
        shares.append(batches.padding(64))
        lengths = [
            [len(examples[task][n].input_ids) for task, n in batch]
            for _, batch in zip(range(64), batches.batches(), strict=False)
        ]
        total = sum(max(row) * len(row) for row in lengths)
        assert shares[-1] == pytest.approx(1 - sum(map(sum, lengths)) / total)
    assert shares[1] < 0.1 < 0.4 < shares[0]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_long_prompt_takes_no_room_from_those_beside_it(name):
    tokens = text_run.tokenizer()
    place = "n_positions" if name == "gpt2" else "max_position_embeddings"
    backbone = text_run.make(name, len(tokens), **{place: 64}).double()
    found = AsText(tokens, {"a": []}, {"a": Kind("completion")}, TextModel.of(backbone.config), max_length=20)
    found.ends = [len(tokens)]  # none that it writes
    prompts = [WrittenText("x" * count, None) for count in (3, 62, 50, 44, 1, 62)]
    examples = found.encode_all({"a": prompts}, use_tags=False)["a"]
    lengths = [len(one.input_ids) for one in examples]
    model = TextWriter(backbone)
    together = [one.ids for one in answer_examples(model, found, examples, len(examples))]
    assert [len(ids) for ids in together] == [min(20, 64 - length) for length in lengths] == [20, 2, 14, 20, 20, 2]
    assert together == [answer_examples(model, found, [one], 1)[0].ids for one in examples]


def test_writing_stops_at_the_context():
    tokens = text_run.tokenizer()
    backbone = text_run.make("gpt2", len(tokens), n_positions=16).double()
    plain = TextWriter(backbone)
    found = AsText(tokens, {"a": []}, {"a": Kind("completion")}, TextModel.of(backbone.config), max_length=128)
    examples = found.encode_all({"a": [WrittenText("show me red", None)]}, use_tags=False)["a"]
    (answer,) = answer_examples(plain, found, examples, 1)
    assert len(answer.ids) + len(examples[0].input_ids) <= 16
