"""The CUDA kernels of LoRA at sizes where tiles, launches and copies of the factors differ."""

import pytest
import torch
from conftest import DEVICE
from helpers.cases import lora_inputs, plain_lora_linear
from helpers.oracle import assert_as_accurate, value_and_gradients

from hyperloader import ops

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cuda_kernels")]


# batch, tokens, in_features, (out_features, rank) of every layer
SIZES = {
    "tiles of 32 tokens": (1, 4130, 32, [(64, 8), (32, 8)]),
    "tiles of 32 tokens, many": (1, 8240, 32, [(32, 8)]),
    "sentences in tiles of 32 tokens, many": (128, 66, 32, [(32, 16), (64, 8)]),
    "more units than a block holds at once": (2, 20, 64, [(32, 40), (64, 8)]),
    "more columns than the warps take at once": (1, 24, 608, [(544, 8), (320, 16)]),
    "more layers than a launch takes": (2, 5, 32, [(32, 8)] * 9),
    "factors with odd rows among others": (2, 9, 64, [(64, 8), (33, 8), (64, 5)]),
    "outputs beyond the second cache": (1, 32, 8, [(210_000, 8), (210_000, 8)]),
}
# Only half precision has tiles of more than 16 tokens.
CASES = [
    (size, dtype)
    for size in SIZES
    for dtype in (torch.bfloat16, torch.float32)
    if dtype == torch.bfloat16 or ("64" not in size and "32" not in size)
]


@pytest.mark.parametrize(("size", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
def test_value_and_gradients(size, groups, dtype):
    """Two runs are equal to the bit."""
    batch, tokens, in_features, layers = SIZES[size]
    made = [lora_inputs(batch, tokens, in_features, *layer, groups, dtype) for layer in layers]
    x, group = made[0]["x"], made[0].get("group")
    names = ("weight", "bias", "lora_A", "lora_B")
    tensors = [x, *(inputs[name] for name in names for inputs in made)]
    grad = torch.randn(batch, tokens, sum(out for out, _ in layers), dtype=dtype)

    def run(function):
        def call(x, *flat):
            lists = [list(flat[i : i + len(layers)]) for i in range(0, len(flat), len(layers))]
            return torch.cat(function(x, *lists), -1)

        return call

    def plain(x, *lists):
        return [plain_lora_linear(x, *layer, group=group, scaling=0.5) for layer in zip(*lists, strict=True)]

    tested = run(lambda x, *lists: ops.lora_linears(x, *lists, group=group, scaling=0.5))
    oracle = value_and_gradients(run(plain), [tensor.double() for tensor in tensors], grad)
    eager = value_and_gradients(run(plain), tensors, grad)
    found, again = (value_and_gradients(tested, tensors, grad) for _ in range(2))
    every = ["y", "x", *(f"{name}[{i}]" for name in names for i in range(len(layers)))]
    for name, one, other, *rest in zip(every, found, again, eager, oracle, strict=True):
        assert torch.equal(one, other), name
        # on a GPU cuBLAS, which they are compared with, cuts long sums into parts, and so rounds less
        assert_as_accurate(one, *rest, name, rounding_factor=8 if DEVICE == "cuda" else 1)
