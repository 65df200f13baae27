"""Launches of a call of the CUDA kernels, beside the frozen products: decoding and graphs live by their number."""

import pytest
import torch
from helpers import cuda_host
from helpers.cases import lora_inputs
from helpers.conditions import call as condition
from helpers.conditions import make_tensors

from hyperloader import ops

pytestmark = pytest.mark.slow


def count(call, tensors):
    """Launches of the forward and of the backward."""
    leaves = [tensor.requires_grad_() for tensor in tensors]
    with cuda_host.launches() as forward:
        result = call(*leaves)
    with cuda_host.launches() as backward:
        torch.autograd.grad(result.float().sum(), leaves)
    return len(forward), len(backward)


@pytest.mark.parametrize("groups", [None, 2], ids=["one task", "two tasks"])
@pytest.mark.parametrize(
    ("size", "outs", "expected"),
    [
        ((8, 1, 64), [(64, 8)], (1, 2)),
        ((4, 16, 64), [(64, 8), (32, 16), (64, 8)], (1, 3)),  # more units than a block holds
        ((2, 5, 64), [(64, 5)], (2, 3)),  # a factor to be laid out
    ],
    ids=["decoding", "three layers", "an odd rank"],
)
def test_lora_linears(size, outs, expected, groups):
    made = [lora_inputs(*size, *layer, groups, torch.bfloat16) for layer in outs]
    lists = [[inputs[name] for inputs in made] for name in ("weight", "bias", "lora_A", "lora_B")]
    group, n = made[0].get("group"), len(outs)

    def call(x, *flat):
        weights, biases = lists[:2]
        return torch.cat(ops.lora_linears(x, weights, biases, flat[:n], flat[n:], group=group), -1)

    assert count(call, [made[0]["x"], *lists[2], *lists[3]]) == expected


def test_generate():
    condition = torch.randn(24, 64)
    weights = [torch.randn(n, 64) for n in (96, 7, 64)]
    biases = [torch.randn(n) for n in (96, 7, 64)]
    assert count(lambda rows, *w: torch.cat(ops.generate(rows, w, biases), 1), [condition, *weights]) == (1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_condition(dtype):
    assert count(condition, make_tensors(5, dtype=dtype)) == (1, 2)
