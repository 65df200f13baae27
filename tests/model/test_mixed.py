"""Batches of many tasks: how many tasks' weights they generate, and where the task ids are not on the host."""

import pytest
import torch
from helpers.tiny import make, make_batch, randomise

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.model import task_selection, weight_provider
from hyperloader.nn import classify, loss

TASKS = [f"task {number}" for number in range(12)]
TASK_IDS = torch.tensor([11, 3, 0, 3, 7])


@pytest.fixture(params=["hypernetwork", "table"])
def model(request):
    labels = {task: ["O", "B-x", "I-x"][: 1 + number % 3] for number, task in enumerate(TASKS)}
    options = {"reduction_factor": 4, "rank": 2, "generator": request.param}
    model = HyperLoaderModel(make("bert"), HyperLoaderConfig(tasks=TASKS, labels=labels, **options)).double()
    randomise(model)
    return model.eval()


@pytest.fixture
def generated(model):
    """How many tasks' weights were generated, one number a call."""
    counts = []
    model.generators["encoder"].register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts


@pytest.fixture
def unknown_values(monkeypatch):
    """Values are not read, as on a GPU."""
    for module in (task_selection, weight_provider, classify, loss):
        monkeypatch.setattr(module, "values_on_host", lambda tensor: False)


def sentences(count=5):
    return {name: tensor[:count] for name, tensor in make_batch("bert").items() if name != "labels"}


def step(model, count=5):
    logits = model(**sentences(count), task_ids=TASK_IDS[:count]).logits
    loss = logits.clamp(min=-9).square().mean()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return logits.detach(), torch.autograd.grad(loss, trained)


def test_the_distinct_tasks_where_they_are_known(model, generated):
    step(model)
    assert generated == [4]


def test_a_set_for_each_sentence_where_they_are_not(model, generated, monkeypatch):
    expected = step(model)
    for module in (task_selection, weight_provider, classify, loss):
        monkeypatch.setattr(module, "values_on_host", lambda tensor: False)
    torch.testing.assert_close(step(model), expected)
    assert generated == [4, 5]


def test_all_tasks_where_they_are_fewer_than_the_sentences(model, generated, unknown_values):
    batch = {name: tensor.repeat(3, 1) for name, tensor in sentences().items()}
    model(**batch, task_ids=TASK_IDS.repeat(3))
    assert generated == [12]


def test_in_a_trace(model, generated):
    expected = model(**sentences(), task_ids=TASK_IDS).logits
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**sentences(), task_ids=TASK_IDS).logits, expected)
    assert generated == [4, 5]


@torch.no_grad()
def test_served_where_the_bank_has_all(model, generated, unknown_values):
    expected = model(**sentences(), task_ids=TASK_IDS).logits
    assert generated == [5]
    for task in TASKS:
        model.weights_of(task)
    generated.clear()
    torch.testing.assert_close(model(**sentences(), task_ids=TASK_IDS).logits, expected)
    assert generated == []
