"""reference.condition: the hand-written gradients are autograd's."""

import torch
from helpers.conditions import EPS, LAYERS, POSITIONS, SCALES, make_tensors, plain

from hyperloader.reference import condition
from hyperloader.reference.groups import ConditionWeights


def test_value_and_gradients():
    task, layer, position, *parameters = make_tensors(dtype=torch.float64)
    arguments = (ConditionWeights(task, layer, position, LAYERS, POSITIONS, *parameters), SCALES, EPS)
    leaves = [tensor.requires_grad_() for tensor in (task, layer, position, *parameters)]
    expected = plain(*leaves)
    torch.testing.assert_close(condition.forward(*arguments), expected, rtol=0, atol=1e-12)
    grad = torch.randn_like(expected)
    with torch.no_grad():
        actual = condition.backward(grad, *arguments)
    for one, other in zip(actual, torch.autograd.grad(expected, leaves, grad), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
