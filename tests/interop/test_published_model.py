"""A whole T5 that imports the drop-in classes instead of the published ones: the same numbers, training included."""

import itertools

import pytest
import torch
from helpers import published_oracle as oracle
from helpers.published_t5 import TASKS, PublishedT5, batch, classes

from hyperloader.interop import published


@pytest.fixture
def models():
    return PublishedT5(classes(published)), PublishedT5(classes(oracle))


def test_same_state_dict(models):
    ours, theirs = (model.checkpoint() for model in models)
    assert ours.keys() == theirs.keys()
    models[0].load_state_dict(models[1].state_dict())


def test_same_numbers(models):
    for task in TASKS:
        found, expected = (model(task, **batch()) for model in models)
        assert torch.allclose(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
        grads = []
        for model, loss in zip(models, (found.loss, expected.loss), strict=True):
            model.zero_grad()
            loss.backward()
            grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert grads[0].keys() == grads[1].keys()
        for name, grad in grads[1].items():
            if grad is None:
                assert grads[0][name] is None or not grads[0][name].any(), name
            else:
                assert torch.allclose(grads[0][name], grad, rtol=1e-3, atol=2e-5 * grad.abs().max().item()), name


@pytest.mark.parametrize("writes_data", [False, True])
def test_training_and_evaluation_by_turns(models, writes_data):
    """With an optimizer that PyTorch sees write, and with one that it does not."""
    losses = []
    for model in models:
        trained = [*model.stacks.parameters(), *model.embeddings.parameters()]
        found = []
        for _ in range(3):
            for task in TASKS[:2]:
                loss = model(task, **batch()).loss
                found.append(loss.item())
                model.zero_grad()
                loss.backward()
                with torch.no_grad():
                    for parameter in trained:
                        if parameter.grad is not None:
                            (parameter.data if writes_data else parameter).sub_(parameter.grad.sign(), alpha=1e-2)
            with torch.no_grad():
                found += [model(task, **batch()).loss.item() for task in TASKS]
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    trained = losses[0][0::5]  # of the first task, before every step
    assert all(abs(one - other) > 0.01 for one, other in itertools.pairwise(trained))


def test_generated_tokens(models):
    options = {"input_ids": batch()["input_ids"], "max_new_tokens": 8, "do_sample": False}
    for index in (0, 2, 0):
        for model in models:
            model.task = index
        assert torch.equal(*(model.backbone.generate(**options) for model in models))
