"""`hyperloader.Tagger`."""

import itertools
import json

import pytest

import hyperloader
from hyperloader.training.saved_run import Run, load_run, predict

TEXTS = ["play silver river by carlos", "wake me up at six", "", "add midnight garden to my list now"]
ODD = "to/pics <b>🎵"


@pytest.fixture(scope="module")
def tagger(folder):
    return hyperloader.Tagger.from_pretrained(folder)


def test_tagging_is_that_of_the_run_with_spans_of_characters(tagger, folder):
    found = tagger(TEXTS, task="music")
    expected = list(predict(load_run(folder), [text.split() for text in TEXTS], "music"))
    assert [one["tags"] for one in found] == expected
    assert any(one["spans"] for one in found)
    for one, text in zip(found, TEXTS, strict=True):
        assert (one["text"], one["task"]) == (text, "music")
        assert all(
            span["text"] == text[span["start"] : span["end"]] and 0 < span["score"] <= 1 for span in one["spans"]
        )


@pytest.mark.parametrize("task", ["intents", ODD, "length"])
def test_whole_texts_are_answered_as_by_the_run(tagger, folder, task):
    found = tagger(TEXTS[:2], task=task)
    for one, expected in zip(found, predict(load_run(folder), TEXTS[:2], task), strict=True):
        if task == "length":
            assert one["value"] == pytest.approx(expected, rel=1e-5)
        else:
            assert one["label"] == (list(expected) if task == ODD else expected)
    assert tagger("", task=task)["value" if task == "length" else "label"] is None


def test_forms_of_inputs(tagger):
    one = tagger(TEXTS[0], task="music")
    assert isinstance(one, dict) and tagger([TEXTS[0]], task="music") == [one]
    words = tagger({"tokens": TEXTS[0].split(), "id": 7}, task="music")
    assert words == {**one, "id": 7}
    pair = tagger(("play a song", "book a table"), task="pairs")
    assert (pair["text"], pair["text_pair"]) == ("play a song", "book a table")
    assert tagger({"text": TEXTS[0], "task": "music"}) == one
    assert tagger("stop!", task="music")["tokens"] == ["stop", "!"]


def test_several_tasks_and_tasks_of_their_own_share_batches(tagger, monkeypatch):
    batches, ask = [], tagger.predictor.ask
    monkeypatch.setattr(tagger.predictor, "ask", lambda examples: batches.append(len(examples)) or ask(examples))
    found = tagger(TEXTS[:2], task=["intents", "music"])
    assert [list(one) for one in found] == [["intents", "music"]] * 2
    assert batches == [4]
    assert found[1]["music"]["tokens"] == TEXTS[1].split()
    mixed = tagger([{"text": TEXTS[0], "task": "music"}, {"text": TEXTS[0], "task": "length"}])
    assert [one["task"] for one in mixed] == ["music", "length"]
    assert list(tagger(TEXTS[0])) == ["music", "intents", ODD, "length"]  # all but the one of pairs
    assert list(tagger(("a", "b"))) == ["pairs"]


def test_a_generator_is_read_a_window_at_a_time(tagger):
    read = []
    endless = (read.append(number) or TEXTS[0] for number in itertools.count())
    answers = tagger(endless, task="music")
    assert read == []
    first = list(itertools.islice(answers, 3))
    assert len(read) == 1024
    assert [one["line"] for one in first] == [1, 2, 3]


@pytest.mark.parametrize("task", ["music", ODD])
def test_merged_for_one_task_it_answers_the_same(tagger, folder, task):
    alone = hyperloader.Tagger.from_pretrained(folder, task=task)
    assert alone.tasks == [task]
    key = "tags" if task == "music" else "label"
    assert [one[key] for one in alone(TEXTS)] == [one[key] for one in tagger(TEXTS, task=task)]
    with pytest.raises(ValueError, match=f"task must be one of {task}, got 'length'"):
        alone("a", task="length")


def test_a_model_that_cannot_be_merged_is_asked_for_its_one_task(folder, monkeypatch):
    monkeypatch.setattr(Run, "hyperloader", None)  # as of the methods lora and full
    alone = hyperloader.Tagger.from_pretrained(folder, task="music")
    assert alone.tasks == ["music"] and alone(TEXTS[0])["task"] == "music"
    with pytest.raises(ValueError, match="task must be one of music, got 'length'"):
        alone("a", task="length")


def test_lengths_do_not_change_answers(tagger):
    texts = [" ".join(["play", "silver", "river"][: 1 + number % 3] * (1 + number % 25)) for number in range(60)]
    together = tagger(texts, task="music")
    for number in (0, 17, 24, 59):
        alone = tagger(texts[number], task="music")
        assert alone["tags"] == together[number]["tags"]
        assert [span["score"] for span in alone["spans"]] == pytest.approx(
            [span["score"] for span in together[number]["spans"]], abs=2e-4
        )
    assert len(tagger("play " * 500, task="music")["tags"]) == 500  # in windows


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_as_of_transformers_pipeline(folder, tmp_path, strategy):
    """Of a plain BERT with the run's weights, which the pipeline reads by itself."""
    import torch
    from transformers import BertForTokenClassification, BertTokenizerFast, pipeline

    tagger = hyperloader.Tagger.from_pretrained(folder, task="music", tokenize="spaces")
    vocabulary = tagger.run.formulation.tokenizer.get_vocab()
    for word, piece in (("omar", "##s"), ("carlos", "##ing")):
        vocabulary[piece] = vocabulary.pop(word)
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    tagger.run.formulation.tokenizer = tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    for formulation in tagger.run.formulation.of_task:
        formulation.tokenizer = tokenizer
    labels = tagger.run.labels["music"]
    task_model = tagger.run.model
    config = task_model.backbone.config
    config.id2label, config.label2id = dict(enumerate(labels)), {name: number for number, name in enumerate(labels)}
    plain = BertForTokenClassification(config).eval()
    with torch.no_grad():
        plain.classifier.weight.copy_(task_model.heads.heads[0].weight)
        plain.classifier.bias.copy_(task_model.heads.heads[0].bias)
    plain.bert = task_model.backbone  # with its adapters, which the pipeline does not see
    pipe = pipeline("token-classification", model=plain, tokenizer=tokenizer, device="cpu")
    for text in [*TEXTS[:2], "playsing rivers  by gardensings nobody adds"]:
        expected = [_rounded(one) for one in pipe(text, aggregation_strategy=strategy)]
        assert expected
        assert [_rounded(one) for one in tagger(text, aggregation_strategy=strategy)] == expected


def _rounded(entity):
    return {**entity, "score": pytest.approx(float(entity["score"]), abs=1e-5)}


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("a", {"task": "musik"}, "task must be one of music, .*got 'musik'; did you mean 'music'"),
        ([{"text": "a"}, {"body": "a"}], {"task": "music"}, "input:2: the object has no 'tokens' and no 'text'"),
        ([3], {"task": "music"}, "input:1: an input must be a text, two as a tuple, or a dict, got 3"),
        ("a", {"task": "pairs"}, "input:1: the object has no 'text_pair'"),
        (("a", "b"), {"task": "length"}, "the task is one of single texts; remove it"),
        (("a", "b"), {"task": "music"}, "input:1: the object has 'text_pair', and the task is one of single texts"),
        ("a", {"task": "music", "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"text": ["a"]}, {"task": "music"}, r"input:1: text must be text, got \['a'\]; put it in quotes"),
        ("a", {"task": "music", "aggregation_strategy": "sum"}, "aggregation_strategy must be one of none, simple"),
        ("a", {"task": "length", "aggregation_strategy": "max"}, "must be None for 'length', which does not"),
        ({"text": "\ud800"}, {"task": "music"}, "surrogate"),
        ({"body": "a"}, {}, "input:1: no task takes such an input, which has 'body'; name one"),
        (iter("a"), {"task": "musik"}, "got 'musik'"),
        ({"text": "a", "task": 5}, {}, "task must be a name, or a list of names, got 5"),
        ({"text": "a", "task": []}, {}, r"task must be a name, or a list of names, got \[\]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tagger, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        tagger(inputs, **options)


def test_a_folder_that_is_no_run(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="must be the output of a run"):
        hyperloader.Tagger.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder; name the output of a run, or owner/name"):
        hyperloader.Tagger.from_pretrained(tmp_path / "nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="nobody/nothing: no such folder, and no repository"):
        hyperloader.Tagger.from_pretrained("nobody/nothing")


def test_a_run_of_the_hub_is_loaded_from_its_files(folder, tagger, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = hyperloader.Tagger.from_pretrained("owner/name", revision="v2")
    assert asked == [
        ("owner/name", "v2", ["config.yaml", "labels.json", "kinds.json", "words.json", "descriptions.json", "best/*"])
    ]
    assert found.tasks == tagger.tasks
    with pytest.raises(ValueError, match="revision must be None for a folder"):
        hyperloader.Tagger.from_pretrained(folder, revision="v2")


def test_the_package_has_no_other_name_of_its_own():
    with pytest.raises(AttributeError, match="no attribute 'Taggr'"):
        _ = hyperloader.Taggr


def test_answers_are_json(tagger):
    json.dumps(tagger(TEXTS, task=["music", "intents", ODD, "length"]))
