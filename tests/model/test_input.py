"""HyperLoaderModel: input that is refused before anything is computed."""

import pytest
import torch
from helpers.tiny import TASK_IDS, make_batch, make_model


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "d"}, ValueError, "task must be one of a, b c, ü.weight, got 'd'"),
        ({"task": ["a", "b c"]}, TypeError, "a task.s name, got .*; a batch of several tasks takes task_ids"),
        ({}, ValueError, "task or task_ids must be given, got neither"),
        ({"task": "a", "task_ids": TASK_IDS}, ValueError, "task or task_ids must be given, got both"),
        ({"task_ids": torch.tensor([0, 1, 2, 3, 0])}, IndexError, "task_ids must be from 0 to 2, got 3"),
        ({"task_ids": torch.tensor([0, 1, -1, 2, 0])}, IndexError, "task_ids must be from 0 to 2, got -1"),
        (
            {"task_ids": torch.zeros(5)},
            TypeError,
            "task_ids must be an int64 tensor of shape .batch,., got torch.float32",
        ),
        ({"task_ids": [0, 1]}, TypeError, "task_ids must be an int64 tensor"),
        ({"task_ids": torch.tensor([0, 1])}, ValueError, "task_ids must have one entry per sentence"),
        ({"task_ids": torch.zeros(3, dtype=torch.int64)}, ValueError, "task_ids must have one entry per sentence"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["t5", "bert"])
def test_rejects(name, arguments, error, message):
    with pytest.raises(error, match=message):
        make_model(name)(**make_batch(name), **arguments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, 6, dtype=torch.int64), r"labels must have shape \(5, 7\), got \(5, 6\)"),
        (torch.full((5, 7), 4), "labels must be below the number of the task's labels"),
    ],
)
def test_rejects_labels_that_do_not_fit(labels, message):
    batch = make_batch("bert") | {"labels": labels}
    with pytest.raises((ValueError, IndexError), match=message):
        make_model("bert")(**batch, task_ids=TASK_IDS)


@pytest.mark.parametrize(
    "labels", [torch.zeros(5, 7).int(), torch.zeros(5, 7), [[0] * 7] * 5], ids=["int32", "float32", "list"]
)
def test_rejects_labels_of_another_type(labels):
    with pytest.raises(TypeError, match=r"labels must be an int64 tensor of shape \(batch, tokens\), got (torch|\[)"):
        make_model("bert")(**make_batch("bert") | {"labels": labels}, task_ids=TASK_IDS)


def test_outputs_as_a_tuple_are_refused():
    with pytest.raises(ValueError, match="return_dict must be True for a model with task heads, got False"):
        make_model("bert")(**make_batch("bert"), task_ids=TASK_IDS, return_dict=False)


def test_task_ids_are_held_against_whatever_holds_the_sentences():
    model = make_model()
    encoder_outputs = model.backbone.encoder.get_input_embeddings()(make_batch()["input_ids"])
    for name in ("inputs_embeds", "encoder_outputs"):
        given = encoder_outputs if name == "inputs_embeds" else (encoder_outputs,)
        with pytest.raises(ValueError, match="task_ids must have one entry per sentence, got 2 for 5 sentences"):
            model.generate(**{name: given}, task_ids=torch.tensor([0, 1]), max_new_tokens=2)
