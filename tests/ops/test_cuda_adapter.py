"""The CUDA kernels of the adapter at sizes where another path is taken, or a block walks over several tiles."""

import re

import pytest
import torch
from conftest import DEVICE
from helpers import cuda_host
from helpers.cases import NORMS, adapter_inputs
from helpers.oracle import assert_as_accurate, value_and_gradients
from helpers.pairs import adapter_pair, compare
from torch.nn import functional

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cuda_kernels")]

HALVES = [torch.bfloat16, torch.float16]
# batch, tokens, hidden, bottleneck
SIZES = {
    "weights in shared memory": (7, 20, 264, 24),
    "weights in shared memory, more columns a warp": (2, 40, 776, 32),
    "two steps of units": (2, 33, 200, 40),
    "a bottleneck of whole 8 bytes": (3, 17, 64, 12),
    "a bottleneck of whole 4 bytes": (3, 17, 64, 14),
    "more units than columns": (3, 17, 24, 70),
    "rows of no whole 16 bytes": (3, 17, 70, 25),
    "more hidden units than registers hold": (7, 40, 1100, 20),
    "weights beyond shared memory": (1, 33, 1024, 96),
    "and those of 64 tokens together": (1, 1290, 1032, 41),
    "and of sentences": (3, 430, 1032, 9),
    "more sentences than lanes": (100, 1, 72, 8),
    "rows of no whole 16 bytes, many": (3, 430, 36, 9),
    "blocks share the hidden units of few tokens": (1, 5, 2100, 40),
    "and of few tokens of two sentences": (2, 3, 1060, 12),
    "and of two tiles a sentence": (2, 20, 1060, 12),
}
FEW = (2, 3, 1060, 12)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_value_and_gradients(size, groups, dtype):
    compare(*adapter_pair(adapter_inputs(*size, groups, "post", dtype)))


@pytest.mark.parametrize(("size", "shared"), [
    ("weights in shared memory", 227), ("weights in shared memory", 98), ("weights in shared memory", 90),
    ("two steps of units", 227),
])  # fmt: skip
@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
def test_rows_that_are_copied_16_bytes_at_a_time(monkeypatch, size, shared, groups):
    """As before compute capability 9.0: the same numbers as rows that the device copies whole. In 98 KiB there is room
    for two tiles of the backward, in 90 for two of the forward."""
    monkeypatch.setenv("HYPERLOADER_CUDA_HOST_SHARED", str(shared << 10))
    inputs = adapter_inputs(*SIZES[size], groups, "post", torch.bfloat16)
    found = []
    for whole in ("1", "0"):
        monkeypatch.setenv("HYPERLOADER_CUDA_HOST_ROWS", whole)
        tested, plain, tensors, names = adapter_pair(inputs)
        compare(tested, plain, tensors, names)
        found.append(value_and_gradients(tested, tensors, torch.ones_like(plain(*tensors))))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has the shared memory that it has")
@pytest.mark.parametrize(("size", "shared", "tiles"), [
    ("and those of 64 tokens together", 227, {"streamed_adapter_kernel<4>", "streamed_backward_kernel<4>"}),
    ("and those of 64 tokens together", 163, {"streamed_adapter_kernel<2>", "streamed_backward_kernel<2>"}),
    ("weights beyond shared memory", 163, {"streamed_adapter_kernel<1>", "streamed_backward_kernel<1>"}),
    ("weights in shared memory", 163, {"resident_adapter_kernel", "resident_backward_kernel"}),
])  # fmt: skip
def test_shared_memory_decides(monkeypatch, size, shared, tiles):
    """That of an H100 and of an A100, in KiB: which kernels run, and what they compute."""
    monkeypatch.setenv("HYPERLOADER_CUDA_HOST_SHARED", str(shared << 10))
    tested, plain, tensors, names = adapter_pair(adapter_inputs(*SIZES[size], None, "post", torch.bfloat16))
    with cuda_host.launches() as launches:
        value_and_gradients(tested, tensors, torch.ones_like(tensors[0]))
    found = (re.search(r"(\w+_kernel)<.*?(, \d)?>", kernel) for kernel, _ in launches)
    assert tiles <= {one[1] + (f"<{one[2][2:]}>" if one[2] and "streamed" in one[1] else "") for one in found}
    compare(tested, plain, tensors, names)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
def test_norms(norm, dtype):
    for size in ((5, 20, 72, 8), (3, 20, 72, 9), FEW):
        compare(*adapter_pair(adapter_inputs(*size, 3, norm, dtype), norm=norm))


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_activations(activation):
    compare(*adapter_pair(adapter_inputs(2, 20, 72, 8, None, "post", torch.bfloat16), activation=activation))


@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
@pytest.mark.parametrize("weight", ["down_weight", "up_weight"])
def test_matrices_of_other_strides(groups, weight):
    for size in ((3, 20, 64, 8), FEW):
        inputs = adapter_inputs(*size, groups, "post", torch.bfloat16)
        inputs[weight] = inputs[weight].mT.contiguous().mT
        compare(*adapter_pair(inputs))


@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
@pytest.mark.parametrize("weight", ["down_weight", "up_weight"])
@pytest.mark.parametrize(
    ("before", "behind", "apart"), [(0, 1, 0), (0, 2, 0), (0, 4, 0), (1, 7, 0), (4, 4, 0), (0, 0, 1)]
)
def test_matrices_that_are_parts_of_others(groups, weight, before, behind, apart):
    """Rows that begin at whole 2, 4 or 8 bytes, and groups that do."""
    inputs = adapter_inputs(3, 20, 64, 12, groups, "post", torch.bfloat16)
    rows, columns = inputs[weight].shape[-2:]
    whole = functional.pad(inputs[weight], (before, behind))
    inputs[weight] = functional.pad(whole.flatten(-2), (0, apart))
    tested, plain, tensors, names = adapter_pair(inputs)

    def of_part(function):
        def part(flat):
            return flat[..., : whole.shape[-1] * rows].unflatten(-1, (rows, -1))[..., before : before + columns]

        return lambda *given: function(
            *(part(one) if name == weight else one for one, name in zip(given, names, strict=True))
        )

    compare(of_part(tested), of_part(plain), tensors, names)


@pytest.mark.parametrize("size", [(3, 20, 64, 8), FEW])
def test_rows_begin_anywhere(size):
    """The address of x is none of whole 16 bytes."""
    inputs = adapter_inputs(*size, None, "post", torch.bfloat16)
    apart = torch.empty(inputs["x"].numel() + 1, dtype=torch.bfloat16, device=inputs["x"].device)[1:]
    inputs["x"] = apart.view(inputs["x"].shape).copy_(inputs["x"])
    tested, plain, tensors, _ = adapter_pair(inputs)
    assert tensors[0].data_ptr() % 16 == 2
    found = []
    for function, own in ((tested, tensors), (plain, tensors), (plain, [tensor.double() for tensor in tensors])):
        value = function(own[0].requires_grad_(), *own[1:])
        found.append((value, *torch.autograd.grad(value.sum(), own[0])))
    for name, ours, eager, oracle in zip(("value", "x"), *found, strict=True):
        assert_as_accurate(ours.detach(), eager.detach(), oracle.detach(), name)


@pytest.mark.parametrize("weights", HALVES, ids=str)
def test_float32_vectors_beside_half_precision(weights):
    inputs = adapter_inputs(3, 20, 64, 8, 3, "post", weights)
    inputs |= {name: tensor.float() for name, tensor in inputs.items() if name.endswith("bias") or "norm" in name}
    compare(*adapter_pair(inputs))


@pytest.mark.parametrize("weight", ["down_weight", "up_weight"])
@pytest.mark.parametrize("size", [(3, 20, 72, 8), FEW], ids=["tiles", "few tokens"])
def test_one_float32_matrix_beside_half_precision(size, weight):
    inputs = adapter_inputs(*size, None, "post", torch.bfloat16)
    compare(*adapter_pair(inputs | {weight: inputs[weight].float()}))


def columns_that_cancel(dtype):
    """Columns of up_weight that cancel to a thousandth: so does the variance of up · a + up_bias."""
    inputs = adapter_inputs(1, 40, 256, 8, None, "post", torch.float32)
    inputs["up_weight"][:, 1::2] = -inputs["up_weight"][:, ::2] + 1e-3 * torch.randn(256, 4)
    inputs["down_weight"][1::2] = inputs["down_weight"][::2]
    inputs["down_bias"][1::2] = inputs["down_bias"][::2]
    inputs["up_bias"].zero_()
    return adapter_pair({name: tensor.to(dtype) for name, tensor in inputs.items()}, eps=1e-12)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_columns_that_cancel(dtype):
    compare(*columns_that_cancel(dtype))


def test_columns_that_cancel_in_float32():
    """The gradients have lost more digits than PyTorch's, but the value none."""
    tested, plain, tensors, _ = columns_that_cancel(torch.float32)
    with torch.no_grad():
        oracle = plain(*(tensor.double() for tensor in tensors))
        assert_as_accurate(tested(*tensors), plain(*tensors), oracle, "value")


@pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
def test_repeats_bit_for_bit(groups):
    inputs = adapter_inputs(5, 50, 264, 24, groups, "post", torch.bfloat16)
    tested, _, tensors, _ = adapter_pair(inputs)
    grad = torch.randn_like(inputs["x"])
    first, second = (value_and_gradients(tested, tensors, grad) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
