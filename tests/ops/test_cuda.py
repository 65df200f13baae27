"""The CUDA kernels: what only they can get wrong. tests/ops/test_<operator>.py compares their results."""

import pytest
import torch
from conftest import DEVICE
from helpers import cuda_host
from helpers.cases import NORMS, adapter_inputs, lora_inputs
from helpers.conditions import LAYERS, POSITIONS, call, make_tensors
from helpers.pairs import adapter_pair, compare, lora_pair

from hyperloader import ops
from hyperloader.ops import _schema, native

has_cuda = native.available and native.build_info()["cuda"] is not None
without_cuda = pytest.mark.skipif(not has_cuda, reason="the extension was built without CUDA kernels")

# batch, tokens, hidden, bottleneck: off every tile; beyond one pass of the warps; a bottleneck beyond one step
SIZES = [(2, 3, 40, 24), (3, 17, 70, 25), (2, 40, 1100, 6), (1, 130, 33, 49), (5, 16, 64, 33), (3, 0, 8, 1)]
HALVES = [torch.bfloat16, torch.float16]

each_size = pytest.mark.parametrize("size", SIZES, ids=str)
each_groups = pytest.mark.parametrize("groups", [None, 3], ids=["single", "mixed"])


@pytest.fixture(autouse=True)
def kernels():
    if DEVICE == "cuda" and not has_cuda:
        pytest.skip("the extension was built without CUDA kernels")
    with cuda_host.backend():
        yield


@without_cuda
@pytest.mark.parametrize("name", _schema.SCHEMAS)
def test_every_operator_has_a_kernel(name):
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert any(has(f"hyperloader::{name}", key) for key in ("CUDA", "CompositeImplicitAutograd"))


@pytest.mark.slow
@each_size
@each_groups
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_adapter(size, groups, dtype, norm):
    compare(*adapter_pair(adapter_inputs(*size, groups, norm, dtype), norm=norm))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(2, 17, 70, 45, 3), (3, 40, 1100, 130, 33), (5, 1, 8, 8, 8)], ids=str)
@each_groups
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
def test_lora_linear(size, groups, dtype):
    compare(*lora_pair(lora_inputs(*size, groups, dtype), 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_columns_that_cancel(dtype):
    """The variance is that of up · a + up_bias, not of its columns: they cancel to a thousandth."""
    inputs = adapter_inputs(1, 40, 256, 8, None, "post", torch.float32)
    inputs["up_weight"][:, 1::2] = -inputs["up_weight"][:, ::2] + 1e-3 * torch.randn(256, 4)
    inputs["down_weight"][1::2] = inputs["down_weight"][::2]
    inputs["down_bias"][1::2] = inputs["down_bias"][::2]
    inputs["up_bias"].zero_()
    inputs = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    expected = ops.adapter(**{name: tensor.double() for name, tensor in inputs.items()}, eps=1e-12)
    found = ops.adapter(**{name: tensor.float() for name, tensor in inputs.items()}, eps=1e-12)
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_more_heads_than_one_launch_has():
    condition = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    heads = [torch.randn(1 + i % 3, 12, dtype=torch.float64, requires_grad=True) for i in range(120)]
    found = torch.cat(ops.generate(condition, heads, [None] * 120), 1)
    expected = condition @ torch.cat(heads).T
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    tensors = [condition, *heads]
    for one, other in zip(
        torch.autograd.grad(found, tensors, grad), torch.autograd.grad(expected, tensors, grad), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_clamped(index):
    """The host does not look at indices on the device."""
    inputs = adapter_inputs(2, 3, 16, 4, 3, "post", torch.float32)
    clamped = max(0, min(index, 2))
    found = ops.adapter(**inputs | {"group": torch.tensor([index, 1])})
    torch.testing.assert_close(found, ops.adapter(**inputs | {"group": torch.tensor([clamped, 1])}), rtol=0, atol=0)


def steps():
    """Name, the operator's call and its inputs, all with gradients."""
    adapter = adapter_inputs(4, 16, 64, 8, 3, "both", torch.bfloat16)
    lora = lora_inputs(4, 16, 64, 48, 8, 3, torch.bfloat16)
    generate = [torch.randn(6, 16), torch.randn(40, 16), torch.randn(40)]
    yield "adapter", lambda *t: ops.adapter(**dict(zip(adapter, t, strict=True)), norm="both"), list(adapter.values())
    yield "lora_linear", lambda *t: ops.lora_linear(**dict(zip(lora, t, strict=True))), list(lora.values())
    yield "generate", lambda c, w, b: ops.generate(c, [w], [b], dtype=torch.bfloat16)[0], generate
    index = [LAYERS.cuda(), POSITIONS.cuda()]
    yield "condition", lambda *t: call(*t, layers=index[0], positions=index[1]), make_tensors()


def forward_and_backward(function, inputs):
    leaves = [tensor.requires_grad_() for tensor in inputs if tensor.is_floating_point()]
    result = function(*inputs)
    return [result, *torch.autograd.grad(result, leaves, torch.ones_like(result))]


@pytest.mark.gpu
def test_nothing_waits_for_the_device():
    for _, function, inputs in steps():
        forward_and_backward(function, inputs)  # cuBLAS sets itself up
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            forward_and_backward(function, inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_graphs_can_be_captured():
    for name, function, inputs in steps():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected = forward_and_backward(function, inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = forward_and_backward(function, inputs)
        graph.replay()
        torch.cuda.synchronize()
        for one, other in zip(captured, expected, strict=True):
            assert torch.equal(one, other), name


@pytest.mark.gpu
def test_rows_beyond_32_bits():
    """More than 2³¹ numbers in x: the last rows are those of x alone."""
    hidden = 4096
    tokens = 2**31 // hidden + 100
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    torch.use_deterministic_algorithms(False)  # filling the memory takes long
    inputs = adapter_inputs(1, 1, hidden, 8, None, "post", torch.bfloat16)
    del inputs["x"]
    x = torch.randn(tokens, hidden, dtype=torch.bfloat16)
    torch.testing.assert_close(ops.adapter(x, **inputs)[-50:], ops.adapter(x[-50:], **inputs), rtol=0, atol=0)
