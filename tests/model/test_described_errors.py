"""What models of tasks in words refuse."""

import pytest
import torch
from helpers import tiny, words
from helpers.tiny import TASK_IDS

from hyperloader import HyperLoaderModel


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"descriptions": None}, TypeError, "descriptions must map every task to what it is about, got None"),
        ({"descriptions": {"a": "x"}}, ValueError, "descriptions must hold every task, got none for 'b c'"),
        ({"descriptions": words.DESCRIPTIONS | {"c": "x"}}, ValueError, "descriptions must hold only .*, got 'c'"),
        ({"descriptions": words.DESCRIPTIONS | {"a": " "}}, ValueError, r"descriptions\['a'\] must not be empty"),
        ({"descriptions": words.DESCRIPTIONS | {"a": []}}, ValueError, r"descriptions\['a'\] must not be empty"),
        ({"descriptions": words.DESCRIPTIONS | {"a": 3}}, TypeError, r"descriptions\['a'\] must be a text or a list"),
        ({"label_words": {"a": {"y": "z"}}}, ValueError, r"label_words\['a'\] must hold only labels .*\(x\), got 'y'"),
        ({"label_words": {"b c": {"y": "z"}}}, ValueError, r"label_words\['b c'\] .*\(it has none\), got 'y'"),
        ({"label_words": {"b": {"y": "z"}}}, ValueError, "label_words must hold only the tasks, got 'b'"),
        ({"label_words": {"a": {"x": ""}}}, ValueError, r"label_words\['a'\]\['x'\] must not be empty, got ''"),
        ({"label_words": {"a": {"x": 1}}}, TypeError, r"label_words\['a'\]\['x'\] must be text, got 1"),
        ({"task_condition": "name"}, ValueError, "descriptions must be None with task_condition 'name', got"),
        ({"task_condition": "nam"}, ValueError, "task_condition must be one of name, description, got 'nam'; did you"),
        ({"text_encoder": "gpt"}, ValueError, "text_encoder must be one of backbone, minilm, got 'gpt'"),
        ({"row_dropout": 1}, ValueError, "row_dropout must be at least 0 and below 1, got 1"),
        ({"row_dropout": "half"}, TypeError, "row_dropout must be a number, got 'half'"),
        ({"generator": "table"}, ValueError, "task_condition must be 'name' with generator 'table'"),
    ],
)
def test_bad_configurations(changes, error, message):
    with pytest.raises(error, match=message):
        tiny.config_for("bert", **words.options() | changes)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "description must be given for a model with task_condition='description', such as"),
        ({"description": ""}, ValueError, "description must not be empty, got ''"),
        ({"description": 3}, TypeError, "description must be a text or a list of texts, got 3"),
        ({"description": "x", "init": "a"}, ValueError, "init must not be given with a description.*got 'a'"),
        ({"description": "x", "label_words": {"v": "y"}}, ValueError, r"label_words\['new'\] .*\(w\), got 'v'"),
        ({"description": "x " * 600}, ValueError, "a description must have 1 to 512 tokens, got 600 in 'x x"),
    ],
)
def test_bad_new_tasks_change_nothing(arguments, error, message):
    model = words.make_model(dtype=torch.float32)
    config, before = model.hyperloader_config, tiny.logits(model, "bert", task_ids=TASK_IDS)
    with pytest.raises(error, match=message):
        model.add_task("new", labels=["O", "B-w"], **arguments)
    assert model.hyperloader_config is config
    assert torch.equal(tiny.logits(model, "bert", task_ids=TASK_IDS), before)


def test_words_without_use():
    model = tiny.make_model("bert")
    for argument, value in (("description", "x"), ("label_words", {"w": "x"})):
        with pytest.raises(ValueError, match=f"{argument} must be None for a model without descriptions, got"):
            model.add_task("new", labels=["O", "B-w"], **{argument: value})


def test_a_tokenizer_is_looked_for_before_anything_is_kept():
    backbone = tiny.make("bert")
    with pytest.raises(ValueError, match=r"tokenizer must be given .*\(the backbone has no name\)"):
        HyperLoaderModel(backbone, tiny.config_for("bert", **words.options()))
    HyperLoaderModel(backbone, tiny.config_for("bert", **words.options()), words.tokenizer()).detach()
