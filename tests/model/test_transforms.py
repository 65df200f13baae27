"""Derivatives of torch.func and forward mode, and FakeTensorMode, through whole models: nothing made there is kept."""

import copy

import pytest
import torch
from helpers.tiny import TASK_IDS, make_batch, make_model
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad

from hyperloader import use_backend
from hyperloader.nn import norms

BATCH = make_batch("bert")
del BATCH["labels"]
SELECTED = ({"task": "a"}, {"task_ids": TASK_IDS})


@pytest.fixture
def model():
    """The reference has all derivatives, and so has eager attention."""
    use_backend("reference")
    model = make_model("bert")
    model.backbone.set_attn_implementation("eager")
    yield model
    use_backend("auto")


def values_of(model):
    return {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}


def loss_of(model, values, selected):
    logits = torch.func.functional_call(model, values, (), BATCH | selected).logits
    return logits.masked_fill(logits == -torch.inf, 0).square().mean()


@pytest.mark.parametrize("selected", SELECTED, ids=["task", "mixed"])
@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("served", [True, False])
def test_forward_mode(model, selected, recording, served):
    """Without a graph, too, where the weight bank has what was generated before, without tangents."""
    values = values_of(model)
    tangents = {name: torch.randn_like(value) for name, value in values.items()}
    gradients = torch.func.grad(lambda values: loss_of(model, values, selected))(values)
    expected = sum((gradients[name] * tangents[name]).sum() for name in values)
    if served:
        with torch.no_grad():
            loss_of(model, values, selected)
    with torch.set_grad_enabled(recording):
        _, found = torch.func.jvp(lambda values: loss_of(model, values, selected), (values,), (tangents,))
        torch.testing.assert_close(found, expected)
        with forward_ad.dual_level():
            dual = {name: forward_ad.make_dual(value, tangents[name]) for name, value in values.items()}
            torch.testing.assert_close(forward_ad.unpack_dual(loss_of(model, dual, selected)).tangent, expected)


@pytest.mark.parametrize("selected", SELECTED, ids=["task", "mixed"])
def test_torch_func_is_as_autograd(model, selected):
    found = torch.func.grad(lambda values: loss_of(model, values, selected))(values_of(model))
    copy.deepcopy(model)  # holds no tensor of the transformation
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    expected = torch.autograd.grad(loss_of(model, trained, selected), trained.values())
    torch.testing.assert_close(tuple(found.values()), expected)


def test_a_backbone_in_half_precision(model, monkeypatch):
    """Its trained norms have a backward of their own in autograd alone, of inputs with many numbers."""
    monkeypatch.setattr(norms, "MANY", 1)
    model.backbone.to(torch.bfloat16)
    values = values_of(model.float().bfloat16())
    found = torch.func.grad(lambda values: loss_of(model, values, SELECTED[0]))(values)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    expected = torch.autograd.grad(loss_of(model, trained, SELECTED[0]), trained.values())
    for one, other in zip(found.values(), expected, strict=True):
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-6
    tangents = {name: torch.randn_like(value) for name, value in values.items()}
    _, tangent = torch.func.jvp(lambda values: loss_of(model, values, SELECTED[0]), (values,), (tangents,))
    assert tangent.isfinite()


def test_several_models_at_once(model):
    values = values_of(model)
    both = {name: torch.stack([value, value / 2]) for name, value in values.items()}
    with torch.no_grad():
        found = torch.func.vmap(lambda values: loss_of(model, values, SELECTED[0]))(both)
        one, two = (loss_of(model, {name: value[i] for name, value in both.items()}, SELECTED[0]) for i in range(2))
    torch.testing.assert_close(found, torch.stack([one, two]))


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_shapes_alone(name):
    model, batch = make_model(name), make_batch(name)
    batch["labels"] = None if name == "bert" else batch["labels"]
    with torch.no_grad():
        expected = make_model(name)(**batch, task="a").logits
        for _ in range(2):  # before the bank has anything, and after
            with FakeTensorMode(allow_non_fake_inputs=True):
                assert isinstance(model(**batch, task="a").logits, FakeTensor)
                mixed = model(**make_batch(name), task_ids=TASK_IDS)
                assert isinstance(mixed.loss, FakeTensor) and mixed.logits.shape[0] == 5
            torch.testing.assert_close(model(**batch, task="a").logits, expected)
