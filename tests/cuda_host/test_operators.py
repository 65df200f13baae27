"""The CUDA kernels of every operator, value and gradients, blocks and threads in any order. tests/ops has the rest."""

import pytest
import torch
from helpers import cuda_host
from helpers.cases import adapter_inputs, lora_inputs
from helpers.conditions import NAMES, make_tensors
from helpers.conditions import call as call_condition
from helpers.conditions import plain as plain_condition
from helpers.oracle import value_and_gradients
from helpers.pairs import adapter_pair, compare, lora_pair
from torch.nn import functional

from hyperloader import ops

pytestmark = pytest.mark.skipif(cuda_host.why_missing() is not None, reason=str(cuda_host.why_missing()))

ORDERS = ["forward", "reversed", "shuffled"]


def generate_pair():
    """Two heads, one without a bias, of more outputs than a block has."""

    def run(function):
        return lambda condition, one, two, bias: torch.cat(function(condition, [one, two], [bias, None]), 1)

    def plain(condition, weights, biases):
        return [functional.linear(condition, *head) for head in zip(weights, biases, strict=True)]

    tensors = [torch.randn(shape) for shape in ((35, 20), (70, 20), (5, 20), (70,))]
    return run(ops.generate), run(plain), tensors, ["condition", "one", "two", "bias"]


PAIRS = {
    "adapter, bfloat16": lambda: adapter_pair(adapter_inputs(3, 19, 72, 24, 2, "post", torch.bfloat16)),
    "adapter, float16, both norms": lambda: adapter_pair(
        adapter_inputs(2, 17, 40, 35, None, "both", torch.float16), norm="both"
    ),
    "adapter, float32": lambda: adapter_pair(adapter_inputs(2, 3, 33, 5, 3, "post", torch.float32)),
    "adapter, float64, no norm": lambda: adapter_pair(
        adapter_inputs(1, 5, 9, 3, None, "none", torch.float64), norm="none"
    ),
    "lora_linear, bfloat16": lambda: lora_pair(lora_inputs(3, 19, 72, 40, 8, 2, torch.bfloat16), 0.5),
    "lora_linear, float16, in two passes": lambda: lora_pair(lora_inputs(3, 19, 72, 40, 17, 2, torch.float16), 0.5),
    "lora_linear, float32": lambda: lora_pair(lora_inputs(2, 5, 33, 17, 3, None, torch.float32), 0.5),
    "generate": generate_pair,
    "condition": lambda: (call_condition, plain_condition, make_tensors(tasks=3), NAMES),
}


@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradients(monkeypatch, name):
    """As accurate as PyTorch in every order, and the same to the last bit."""
    found = []
    for order in ORDERS:
        monkeypatch.setenv("HYPERLOADER_CUDA_HOST_ORDER", order)
        torch.manual_seed(0)
        tested, plain, tensors, names = PAIRS[name]()
        with cuda_host.backend():
            if order == "forward":
                compare(tested, plain, tensors, names)
            found.append(value_and_gradients(tested, tensors, torch.ones_like(plain(*tensors))))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_unknown_order(monkeypatch):
    monkeypatch.setenv("HYPERLOADER_CUDA_HOST_ORDER", "sorted")
    assert "HYPERLOADER_CUDA_HOST_ORDER must be forward, reversed or shuffled, got sorted" in cuda_host.fault(
        "no_barrier", sound=True
    )


def test_the_extension_computes_again():
    """Afterwards the kernels for the CPU are back."""
    inputs = adapter_inputs(2, 3, 8, 4, None, "post", torch.float32)
    before = kernel_of("adapter")
    with cuda_host.backend():
        assert "cuda_host/kernels.cpp" in kernel_of("adapter")
        ops.adapter(**inputs)
    assert kernel_of("adapter") == before
    assert "csrc/cpu/" in before


def kernel_of(name):
    return torch._C._dispatch_dump_table(f"hyperloader::{name}").split("CPU: ")[1].split("\n")[0]
