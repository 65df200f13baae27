"""Trained norms of a backbone in half precision: float32 weights, and what they keep for the backward."""

import pytest
import torch
from torch import nn

from hyperloader.nn.norms import HALF, MANY, keep_in_float32

each_half = pytest.mark.parametrize("dtype", HALF, ids=str)


def make(dtype, *, bias=True):
    torch.manual_seed(0)
    norm = nn.LayerNorm(24, bias=bias).to(dtype)
    keep_in_float32(norm)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1, 0.1)
    return norm, torch.randn(MANY // 24 + 1, 24, dtype=dtype, requires_grad=True)


def run(norm, x, grad):
    """What PyTorch computes of the cast input, and its gradients of x, weight and bias."""
    wide = x.float()
    y = nn.functional.layer_norm(wide, (24,), norm.weight, norm.bias, norm.eps).to(x.dtype)
    return [y, *torch.autograd.grad(y, [x, *norm.parameters()], grad)]


@each_half
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_bits_as_of_the_cast_input(dtype, bias):
    norm, x = make(dtype, bias=bias)
    grad = torch.randn_like(x)
    y = norm(x)
    found = [y, *torch.autograd.grad(y, [x, *norm.parameters()], grad)]
    for one, other in zip(found, run(norm, x, grad), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(norm(x), y)


@each_half
def test_gradients_that_are_not_wanted(dtype):
    norm, x = make(dtype)
    norm.weight.requires_grad_(False)
    norm(x.detach()).sum().backward()
    assert x.grad is None
    assert norm.weight.grad is None
    assert torch.equal(norm.bias.grad, torch.full((24,), float(len(x))))
    norm.bias.requires_grad_(False)
    norm(x).sum().backward()
    assert x.grad.dtype == dtype


@each_half
def test_the_input_is_kept_as_it_was_given(dtype):
    norm, x = make(dtype)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm(x)
    assert [t.dtype for t in kept if t.shape == x.shape] == [dtype]
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm(x[:-2])
    assert [t.dtype for t in kept if t.shape == x[:-2].shape] == [torch.float32], "few numbers: PyTorch's own"


def test_an_input_that_is_written_to_is_noticed():
    norm, x = make(torch.bfloat16)
    given = x * 1
    y = norm(given)
    given.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
