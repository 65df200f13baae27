"""The reference LoRA layer's hand-written backward against autograd of the formula in float64."""

import pytest
import torch
from helpers.cases import lora_inputs, plain_lora_linear

from hyperloader.reference import lora_linear
from hyperloader.reference.groups import LoraNeeded


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("needed", [(True,) * 5, (True, False, False, True, True), (False, True, False, True, False)])
def test_gradients(groups, needed):
    inputs = lora_inputs(4, 5, 7, 6, 2, groups, torch.float64)
    group = inputs.pop("group", None)
    leaves = [tensor.clone().requires_grad_() for tensor in inputs.values()]
    y = plain_lora_linear(*leaves, group=group, scaling=0.7)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, [leaf for leaf, needs in zip(leaves, needed, strict=True) if needs], grad)

    x, *layer = ([tensor] for tensor in inputs.values())
    torch.testing.assert_close(lora_linear.forward(*x, *layer, group, 0.7), [y.detach()])
    weights, _, *factors = layer
    actual = lora_linear.backward([grad], *x, weights, *factors, group, 0.7, LoraNeeded(*needed))
    assert len(actual) == sum(needed)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
