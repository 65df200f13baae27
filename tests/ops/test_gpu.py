"""On a GPU: every dtype, graph capture, several streams at once, and what `auto` runs there."""

import pytest
import torch
from helpers.cases import NORMS, adapter_inputs, lora_inputs
from helpers.conditions import NAMES, call, make_tensors
from helpers.graphs import capture
from helpers.pairs import adapter_pair, compare, lora_pair

from hyperloader import ops
from hyperloader.ops import why_missing

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_groups = pytest.mark.parametrize("groups", [None, 3], ids=["single", "mixed"])


@pytest.fixture(autouse=True, params=["triton", "auto"])
def gpu_backend(request):
    if why_missing(request.param) is not None:
        pytest.skip(why_missing(request.param))
    with ops.use_backend(request.param):
        yield request.param


def on_gpu(inputs):
    return {name: tensor.cuda() for name, tensor in inputs.items()}


@pytest.mark.parametrize("size", [(32, 64, 768, 24), (3, 100, 1024, 32), (5, 7, 50, 3)], ids=str)
@each_groups
@each_dtype
@pytest.mark.parametrize("norm", NORMS)
def test_adapter(size, groups, dtype, norm):
    compare(*adapter_pair(on_gpu(adapter_inputs(*size, groups, norm, dtype)), norm=norm))


@pytest.mark.parametrize("size", [(32, 64, 768, 768, 8), (5, 7, 50, 33, 3)], ids=str)
@each_groups
@each_dtype
def test_lora_linear(size, groups, dtype):
    compare(*lora_pair(on_gpu(lora_inputs(*size, groups, dtype)), 0.5))


@each_groups
@pytest.mark.parametrize("half", [("x",), ("x", "weight", "bias"), ("x", "lora_A", "lora_B")], ids=str)
def test_lora_linear_with_float32_weights_beside_bfloat16(groups, half):
    inputs = lora_inputs(3, 64, 128, 96, 8, groups, torch.float32)
    inputs |= {name: inputs[name].bfloat16() for name in half}
    compare(*lora_pair(on_gpu(inputs), 2.0))


def operator_calls(dtype):
    """The tensors with gradients of every operator, and a function of them with one result."""
    adapter = on_gpu(adapter_inputs(8, 64, 256, 24, 3, "post", dtype))
    lora = on_gpu(lora_inputs(8, 64, 256, 128, 8, 3, dtype))
    heads = [torch.randn(24, 64), torch.randn(600, 64) / 8, torch.randn(70, 64) / 8, torch.randn(70)]
    heads = [tensor.cuda().to(dtype) for tensor in heads]
    network = [tensor.cuda().to(dtype) for tensor in make_tensors(3, 64, 128, 64)]
    group, layers, positions = adapter.pop("group"), torch.tensor([1, 3, 2]).cuda(), torch.tensor([4, 0]).cuda()
    lora_group = lora.pop("group")
    return {
        "adapter": (adapter, lambda *t: ops.adapter(**dict(zip(adapter, t, strict=True)), group=group)),
        "lora_linear": (lora, lambda *t: ops.lora_linear(**dict(zip(lora, t, strict=True)), group=lora_group)),
        "generate": (
            dict(enumerate(heads)),
            lambda condition, one, other, bias: torch.cat(ops.generate(condition, [one, other], [None, bias]), 1),
        ),
        "condition": (dict(zip(NAMES, network, strict=True)), lambda *t: call(*t, layers=layers, positions=positions)),
    }


@each_dtype
@pytest.mark.parametrize("name", ["adapter", "lora_linear", "generate", "condition"])
def test_graph_capture(name, dtype):
    """Forward and backward in one captured graph: replayed on other inputs, the numbers of a call without a graph."""
    inputs, function = operator_calls(dtype)[name]
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]

    def run():
        y = function(*leaves)
        return [y, *torch.autograd.grad(y.float().square().sum(), leaves)]

    graph, captured = capture(run)
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(0.5)
    graph.replay()
    for one, other in zip(captured, run(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["adapter", "lora_linear", "generate", "condition"])
def test_many_streams(name):
    inputs, function = operator_calls(torch.float32)[name]
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]

    def run():
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]

    expected = run()
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(8)]
    found = []
    for stream in streams:
        with torch.cuda.stream(stream):
            found.append(run())
    torch.cuda.synchronize()
    for results in found:
        for one, other in zip(results, expected, strict=True):
            assert torch.equal(one, other)


def test_a_group_out_of_range_reads_nothing_foreign():
    inputs = on_gpu(adapter_inputs(2, 3, 16, 4, 3, "post", torch.float32))
    wrong, right = (ops.adapter(**inputs | {"group": torch.tensor(ids).cuda()}) for ids in ([-5, 900], [0, 2]))
    assert torch.equal(wrong, right)


def test_auto_computes_float64(gpu_backend):
    if gpu_backend == "triton":
        pytest.skip("chosen by name, the Triton kernels refuse float64")
    compare(*adapter_pair(on_gpu(adapter_inputs(2, 3, 16, 4, 3, "post", torch.float64))))
