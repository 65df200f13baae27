"""The reference adapter's hand-written backward, in both forms, against autograd of the formula in float64."""

import pytest
import torch
from helpers.cases import ACTIVATIONS, NORMS, adapter_inputs, plain_adapter

from hyperloader.reference import adapter, adapter_low_rank
from hyperloader.reference.groups import AdapterWeights

EPS = 1e-5


def weights_of(inputs):
    return AdapterWeights(*(inputs.get(name) for name in AdapterWeights._fields))


def by_autograd(inputs, grad, **options):
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items() if name != "group"}
    y = plain_adapter(**leaves, group=inputs.get("group"), eps=EPS, **options)
    order = ["x", *(name for name in leaves if name != "x")]
    return y.detach(), torch.autograd.grad(y, [leaves[name] for name in order], grad)


def assert_equal(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_plain_form(norm, activation, groups):
    inputs = adapter_inputs(4, 5, 10, 3, groups, norm, torch.float64)
    grad = torch.randn_like(inputs["x"])
    y, grads = by_autograd(inputs, grad, norm=norm, activation=activation)
    rest = (inputs.get("group"), norm, activation, EPS)
    actual, pre = adapter.forward(inputs["x"], weights_of(inputs), *rest)
    torch.testing.assert_close(actual, y, rtol=0, atol=1e-12)
    assert_equal(adapter.backward(grad, inputs["x"], pre, weights_of(inputs), *rest), grads)


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_low_rank_form(activation, groups):
    inputs = adapter_inputs(4, 5, 10, 3, groups, "post", torch.float64)
    grad = torch.randn_like(inputs["x"])
    y, grads = by_autograd(inputs, grad, norm="post", activation=activation)
    weights, rest = weights_of(inputs), (inputs.get("group"), activation, EPS)
    actual, pre = adapter_low_rank.forward(inputs["x"], weights, *rest)
    torch.testing.assert_close(actual, y, rtol=0, atol=1e-12)
    assert_equal(adapter_low_rank.backward(grad, inputs["x"], pre, weights, *rest), grads)


def test_low_rank_norm_does_not_cancel_where_the_mean_is_large():
    """A large common offset of the norm's input does not cancel its variance: float32 is as near as the plain form."""
    inputs = adapter_inputs(1, 64, 256, 8, None, "post", torch.float64)
    inputs["up_weight"] += 30
    inputs["up_bias"] += 1000
    rest = (None, "gelu_new", EPS)
    expected, _ = adapter_low_rank.forward(inputs["x"], weights_of(inputs), *rest)
    low = {name: tensor.float() for name, tensor in inputs.items()}
    plain, _ = adapter.forward(low["x"], weights_of(low), None, "post", "gelu_new", EPS)
    actual, _ = adapter_low_rank.forward(low["x"], weights_of(low), *rest)
    assert (actual - expected).abs().max() <= 2 * (plain - expected).abs().max()
