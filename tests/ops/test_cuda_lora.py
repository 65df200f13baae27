"""The CUDA kernels of LoRA at sizes where tiles, launches and copies of the factors differ."""

import pytest
import torch
from conftest import DEVICE
from helpers import cuda_host
from helpers.cases import lora_inputs, plain_lora_linear
from helpers.oracle import assert_as_accurate, value_and_gradients

from hyperloader import ops

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cuda_kernels")]


# batch, tokens, in_features, (out_features, rank) of every layer
SIZES = {
    "tiles of 32 tokens": (1, 4130, 32, [(64, 16), (32, 8)]),
    "tiles of 32 tokens, many": (1, 8240, 32, [(32, 24)]),
    "sentences in tiles of 32 tokens, many": (128, 66, 32, [(32, 16), (64, 8)]),
    "all gradients at once": (1, 2600, 40, [(64, 8), (24, 5)]),
    "all gradients at once, one layer of 16": (1, 2600, 152, [(264, 16)]),
    "all gradients at once, of many sentences": (96, 78, 24, [(32, 8), (40, 8)]),
    "all gradients at once, as wide as it may be": (1, 1300, 768, [(768, 8)]),
    "sentences of many groups that are few tokens": (400, 1, 256, [(256, 8)]),
    "x wider than a block holds": (1, 24, 1024, [(64, 8)]),
    "results wider than a block holds": (1, 24, 64, [(1000, 8)]),
    "rows that are no whole 16 bytes": (1, 24, 64, [(33, 8)]),
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


def make(size, groups, dtype):
    """lora_linears and its formula as functions of their tensors, these, a gradient, and names of all gradients."""
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
    every = ["y", "x", *(f"{name}[{i}]" for name in names for i in range(len(layers)))]
    return tested, run(plain), tensors, grad, every


@pytest.mark.parametrize(("size", "dtype"), CASES, ids=str)
@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
def test_value_and_gradients(size, groups, dtype):
    """Two runs are equal to the bit."""
    tested, plain, tensors, grad, every = make(size, groups, dtype)
    oracle = value_and_gradients(plain, [tensor.double() for tensor in tensors], grad)
    eager = value_and_gradients(plain, tensors, grad)
    found, again = (value_and_gradients(tested, tensors, grad) for _ in range(2))
    for name, one, other, *rest in zip(every, found, again, eager, oracle, strict=True):
        assert torch.equal(one, other), name
        # on a GPU cuBLAS, which they are compared with, cuts long sums into parts, and so rounds less
        assert_as_accurate(one, *rest, name, rounding_factor=8 if DEVICE == "cuda" else 1)


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has the shared memory that it has")
@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
@pytest.mark.parametrize(("size", "shared", "at_once"), [
    ("all gradients at once", 227, True),
    ("all gradients at once, one layer of 16", 163, True),
    ("all gradients at once, of many sentences", 60, True),
    ("all gradients at once, as wide as it may be", 227, True),
    ("all gradients at once, as wide as it may be", 163, False),
    ("tiles of 32 tokens", 227, False),
    ("x wider than a block holds", 227, False),
    ("results wider than a block holds", 227, False),
    ("rows that are no whole 16 bytes", 227, False),
    ("more columns than the warps take at once", 227, False),
])  # fmt: skip
def test_all_gradients_at_once(monkeypatch, size, shared, at_once, groups):
    """Where shared memory (KiB) and tokens suffice: other kernels, and with rows copied 16 bytes at a time, as before
    compute capability 9.0, the same numbers."""
    monkeypatch.setenv("HYPERLOADER_CUDA_HOST_SHARED", str(shared << 10))
    tested, _, tensors, grad, every = make(size, groups, torch.bfloat16)
    found = []
    for whole in ("1", "0"):
        monkeypatch.setenv("HYPERLOADER_CUDA_HOST_ROWS", whole)
        with cuda_host.launches() as launches:
            found.append(value_and_gradients(tested, tensors, grad))
        kernels = "".join(kernel for kernel, _ in launches)
        assert ("resident_low_rank_kernel" in kernels) == at_once
        assert ("sum_units_kernel" in kernels) != at_once
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True)), every


@pytest.mark.skipif(DEVICE == "cuda", reason="another GPU has another number of multiprocessors")
@pytest.mark.parametrize(("groups", "at_once"), [(None, True), (3, False)], ids=["one task", "three tasks"])
def test_parts_that_are_more_than_the_tokens(groups, at_once):
    """Every sentence may be of another group: then its sums are more than reading it again."""
    tested, _, tensors, grad, _ = make("sentences of many groups that are few tokens", groups, torch.bfloat16)
    with cuda_host.launches() as launches:
        value_and_gradients(tested, tensors, grad)
    assert ("resident_low_rank_kernel" in "".join(kernel for kernel, _ in launches)) == at_once


def test_float32_weights_beside_half_precision():
    """What reaches x is float32 there, to which the product is added."""
    tested, plain, tensors, grad, every = make("all gradients at once", 3, torch.bfloat16)
    layers = len(SIZES["all gradients at once"][3])
    tensors = [tensor.float() if 0 < i <= layers else tensor for i, tensor in enumerate(tensors)]  # the frozen weights
    oracle = value_and_gradients(plain, [tensor.double() for tensor in tensors], grad)
    found = value_and_gradients(tested, tensors, grad)
    for name, one, exact in zip(every, found, oracle, strict=True):
        error = (one.double() - exact).norm() / exact.norm()
        assert error <= 0.01, name
