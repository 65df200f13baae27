"""The CPU kernels: sizes off every tile, few tokens and many, several threads."""

import sys
import threading

import pytest
import torch
from helpers.cases import ACTIVATIONS, NORMS, adapter_inputs, lora_inputs
from helpers.pairs import adapter_pair, assert_accurate_where_columns_cancel, compare, lora_pair

from hyperloader import ops
from hyperloader.ops import native

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native extension: {native.reason}")

# batch, tokens, hidden, bottleneck: few tokens for the bottleneck and many, a hidden beyond one pass of the products
SIZES = [(2, 3, 40, 24), (3, 50, 70, 25), (2, 40, 1100, 6), (1, 130, 33, 49), (4, 9, 64, 40)]
SIZES += [(1, 1, 7, 1), (2, 0, 16, 4)]  # one of everything, no tokens
LORA_SIZES = [(2, 3, 40, 70, 8), (3, 50, 1100, 33, 5), (1, 130, 17, 2050, 16), (1, 1, 7, 5, 1), (2, 0, 16, 12, 4)]
each_size = pytest.mark.parametrize("size", SIZES, ids=str)
each_groups = pytest.mark.parametrize("groups", [None, 3], ids=["single", "mixed"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def native_backend():
    with ops.use_backend("native"):
        yield


@pytest.fixture
def threads():
    """Set the number of threads, and bring back what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@each_size
@each_groups
@each_dtype
@pytest.mark.parametrize("norm", NORMS)
def test_adapter(size, groups, dtype, norm):
    compare(*adapter_pair(adapter_inputs(*size, groups, norm, dtype), norm=norm))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_from_one_end_to_the_other(activation, dtype):
    """Through an adapter that passes them on: down_weight is one, up_weight too, and x is where the activation is
    looked at. Values and slopes are those of PyTorch in float64 to a rounding or two, and NaN stays NaN."""
    ends = torch.tensor([-3e38, -1e30, -1e4, -88.0, -0.0, 0.0, 1e-30, 88.0, 1e4, 1e30, 1e38], dtype=dtype)
    pre = torch.cat([torch.linspace(-30, 30, 2001, dtype=dtype), ends]).reshape(-1, 1).requires_grad_()
    one, zero = torch.ones(1, 1, dtype=dtype), torch.zeros(1, dtype=dtype)
    value = ops.adapter(pre, one, zero, one, zero, norm="none", activation=activation) - pre
    (slope,) = torch.autograd.grad(value.sum(), pre)
    exact_pre = pre.detach().double().requires_grad_()
    expected = ACTIVATIONS[activation](exact_pre)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exact_pre)
    rounding = torch.finfo(dtype).eps * (1 if dtype == torch.float32 else 8)  # in float64 PyTorch rounds, too
    scale = 1 + 2 * exact_pre.detach().abs()  # x itself was added and taken away again
    assert ((value.detach().double() - expected.detach()).abs() / scale).max() < 2 * rounding
    assert (slope.double() - expected_slope).abs().max() < 8 * rounding
    if activation != "relu":
        far = torch.tensor([[-3e38]], dtype=dtype)
        alone = ops.adapter(0 * far, one, far[0], one, zero, norm="none", activation=activation)
        assert alone.abs().max() < 1e-6, "far below zero the activation is zero"
    nan = torch.full((1, 1), float("nan"), dtype=dtype)
    assert ops.adapter(nan, one, zero, one, zero, norm="none", activation=activation).isnan().all()


@pytest.mark.parametrize("size", LORA_SIZES, ids=str)
@each_groups
@each_dtype
def test_lora_linear(size, groups, dtype):
    inputs = lora_inputs(*size, groups, dtype)
    compare(*lora_pair(inputs, 0.5))
    del inputs["bias"]
    compare(*lora_pair(inputs, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(3, 50, 70, 33, 5), (8, 64, 130, 96, 8)], ids=str)
def test_folded_lora_linear(size, dtype):
    inputs = lora_inputs(*size, None, dtype)
    assert ops.explain_lora_linear(inputs["x"], inputs["weight"]) == "folded"
    compare(*lora_pair(inputs, 0.5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_folded_lora_linear_with_a_float32_weight_beside_half_tokens(dtype):
    inputs = lora_inputs(4, 64, 64, 48, 4, None, torch.float32)
    inputs["x"] = inputs["x"].to(dtype)
    assert ops.explain_lora_linear(inputs["x"], inputs["weight"]) == "folded"
    compare(*lora_pair(inputs, 0.5))


def test_gradient_of_a_float32_bias_beside_half_weights():
    """It is a sum over all tokens, and is not rounded on the way."""
    inputs = lora_inputs(1, 4096, 8, 4, 2, None, torch.bfloat16)
    inputs["bias"] = inputs["bias"].float().requires_grad_()
    grad = torch.randn(1, 4096, 4).bfloat16()
    (found,) = torch.autograd.grad(ops.lora_linear(**inputs), inputs["bias"], grad)
    torch.testing.assert_close(found, grad.float().sum((0, 1)), rtol=1e-5, atol=1e-4)


def test_when_lora_linear_folds():
    def way(tokens, weight_dtype=torch.float32, **options):
        return ops.explain_lora_linear(
            torch.zeros(4, tokens // 4, 64), torch.zeros(64, 64, dtype=weight_dtype), **options
        )

    assert (way(92), way(96), way(4096)) == ("epilogue", "folded", "folded")
    assert way(4096, group=torch.zeros(4, dtype=torch.long)) == "epilogue"
    half = torch.zeros(4096, 64, dtype=torch.bfloat16)
    assert ops.explain_lora_linear(half, torch.zeros(64, 64, dtype=torch.bfloat16)) == "epilogue"
    assert ops.explain_lora_linear(half, torch.zeros(64, 64)) == "folded"
    with ops.use_backend("reference"):
        assert way(4096) == "reference"


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.01])
def test_adapter_whose_columns_cancel(spread):
    assert_accurate_where_columns_cancel(adapter_inputs(4, 64, 384, 12, None, "post", torch.float32), spread)


@each_groups
@pytest.mark.parametrize("norm", ["post", "both"])
def test_groups_cut_up_among_threads(threads, groups, norm):
    """With any number of threads the same result, bit for bit in every run, and nearly the same as with one."""
    inputs = {
        name: tensor.requires_grad_(tensor.is_floating_point())
        for name, tensor in adapter_inputs(9, 40, 192, 48, groups, norm, torch.float32).items()
    }
    leaves = [tensor for tensor in inputs.values() if tensor.requires_grad]
    grad = torch.randn(9, 40, 192)

    def run():
        y = ops.adapter(**inputs, norm=norm)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    threads(1)
    alone = run()
    for count in (2, 3, 7):
        threads(count)
        first, second = run(), run()
        for name, one, other, by_one in zip(["y", *inputs], first, second, alone, strict=False):
            assert torch.equal(one, other), f"{name} differs from run to run with {count} threads"
            torch.testing.assert_close(one, by_one, rtol=1e-4, atol=1e-4)


@each_groups
def test_lora_groups_cut_up_among_threads(threads, groups):
    inputs = {
        name: tensor.requires_grad_(tensor.is_floating_point())
        for name, tensor in lora_inputs(9, 400, 96, 80, 8, groups, torch.float32).items()
    }
    leaves = [tensor for tensor in inputs.values() if tensor.requires_grad]

    def run():
        return torch.autograd.grad(ops.lora_linear(**inputs).square().sum(), leaves)

    threads(1)
    alone = run()
    for count in (2, 5):
        threads(count)
        for one, other, by_one in zip(run(), run(), alone, strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(one, by_one, rtol=1e-4, atol=1e-3)


def test_python_runs_on_while_a_kernel_computes(threads):
    """The global interpreter lock is free: with switches forbidden, another thread gets it from a call alone."""
    threads(1)
    inputs = adapter_inputs(1, 6_000, 256, 64, None, "post", torch.float32)
    interval, started, ran = sys.getswitchinterval(), threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: (started.wait(), ran.set()))
    other.start()
    sys.setswitchinterval(3600)
    try:
        started.set()
        for _ in range(100):  # the system may be slow to wake the other thread
            ops.adapter(**inputs)
            if ran.is_set():
                break
        answered = ran.is_set()
    finally:
        sys.setswitchinterval(interval)
    other.join()
    assert answered


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_of_the_size_of_x_is_allocated_but_the_result(norm):
    inputs = adapter_inputs(1, 40_000, 64, 8, None, norm, torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        ops.adapter(**inputs, norm=norm)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    result, saved = inputs["x"].nbytes, inputs["x"].nbytes // 8
    assert result + saved <= allocated < result + saved + 1_000_000
