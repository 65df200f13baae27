"""One graph serves all tasks, by name and by ids."""

import pytest
import torch
from helpers import tiny
from helpers.tiny import make, make_batch, randomise
from torch._dynamo.testing import CompileCounter

from hyperloader import HyperLoaderConfig, HyperLoaderModel

TASKS = [f"task {number}" for number in range(12)]  # more than torch.compile makes graphs of one function


@pytest.fixture
def model(request):
    name = getattr(request, "param", "bert")
    labels = {task: ["O", "B-x", "I-x"][: 1 + number % 3] for number, task in enumerate(TASKS)}
    config = HyperLoaderConfig(tasks=TASKS, labels=labels if name == "bert" else None, reduction_factor=4, rank=2)
    model = HyperLoaderModel(make(name), config).double()
    randomise(model)
    torch._dynamo.reset()
    return model.eval()


def batch_of(model):
    batch = make_batch("t5" if model.heads is None else "bert")
    if model.heads is not None:
        batch["labels"] = torch.zeros_like(batch["labels"])
    return batch if model.heads is not None else batch | {"use_cache": False}


@pytest.mark.parametrize(
    ("model", "how"),
    [("bert", "torch.compile"), ("bert", "model.compile"), ("t5", "torch.compile")],
    indirect=["model"],
)
def test_one_graph_for_every_name(model, how):
    counter, batch = CompileCounter(), batch_of(model)
    expected = {task: model(**batch, task=task) for task in TASKS}
    if how == "model.compile":
        model.compile(fullgraph=True, backend=counter)
        compiled = model
    else:
        compiled = torch.compile(model, fullgraph=True, backend=counter)
    for task in TASKS:
        found = compiled(**batch, task=task)
        assert found.logits.shape == expected[task].logits.shape
        torch.testing.assert_close(found.logits, expected[task].logits)
        torch.testing.assert_close(found.loss, expected[task].loss)
    assert counter.frame_count == 1


def test_names_are_checked(model):
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(ValueError, match="task must be one of"):
        compiled(**batch_of(model), task="another")


@pytest.mark.parametrize("selected", [{"task": TASKS[1]}, {"task_ids": torch.tensor([1, 1, 1, 1, 1])}], ids=str)
def test_the_same_parameters_get_gradients(model, selected):
    found = []
    for called in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad(set_to_none=True)
        called(**batch_of(model), **selected).loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    eager, compiled = found
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, grad in eager.items() if grad is not None} == trained
    torch.testing.assert_close(eager, compiled, rtol=1e-7, atol=1e-9)


def test_inside_a_function_of_the_users(model):
    compiled = torch.compile(lambda batch, task: model(**batch, task=task).loss, fullgraph=True, backend="eager")
    for task in TASKS[:2]:
        torch.testing.assert_close(compiled(batch_of(model), task), model(**batch_of(model), task=task).loss)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "t5"], indirect=True)
def test_graphs_of_a_training_with_validation(model):
    """One for training, two for validation: batches with fewer sentences than tasks, and with as many or more."""
    counter = CompileCounter()
    compiled = torch.compile(model, dynamic=True, fullgraph=True, backend=counter)
    for training, sizes in ((True, [(12, 7), (15, 5)]), (False, [(12, 7), (13, 6), (9, 3), (2, 4)])) * 2:
        model.train(training)
        for sentences, tokens in sizes:
            ids = torch.arange(2, 2 + sentences * tokens).view(sentences, tokens) % tiny.VOCABULARY
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros_like(ids)}
            if model.heads is None:
                batch["use_cache"] = False
            for task_ids in (torch.arange(sentences) % len(TASKS), torch.full((sentences,), 1)):
                with torch.set_grad_enabled(training):
                    loss = compiled(**batch, task_ids=task_ids).loss
                    torch.testing.assert_close(loss, model(**batch, task_ids=task_ids).loss)
    assert counter.frame_count == 3
