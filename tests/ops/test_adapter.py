"""ops.adapter: every backend against the float64 formula."""

import pytest
import torch
from conftest import DEVICE
from helpers.cases import ACTIVATIONS, NORMS, adapter_inputs, plain_adapter
from helpers.oracle import assert_as_accurate, value_and_gradients
from torch.utils._python_dispatch import TorchDispatchMode

from hyperloader import ops

# (batch, tokens, hidden, bottleneck): aligned, off every block size, smallest, none
SHAPES = [(4, 16, 64, 16), (3, 11, 100, 24), (1, 1, 7, 1), (2, 0, 16, 4)]

each_groups = pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])
each_norm = pytest.mark.parametrize("norm", NORMS)


def compare(inputs, rounding_factor=1, **options):
    group = inputs.pop("group", None)
    names = list(inputs)

    def call(function):
        return lambda *tensors: function(**dict(zip(names, tensors, strict=True)), group=group, **options)

    tensors = list(inputs.values())
    grad = torch.randn_like(inputs["x"])
    oracle = value_and_gradients(call(plain_adapter), [tensor.double() for tensor in tensors], grad)
    eager = value_and_gradients(call(plain_adapter), tensors, grad)
    actual = value_and_gradients(call(ops.adapter), tensors, grad)
    for name, *triple in zip(["y", *(f"grad_{name}" for name in names)], actual, eager, oracle, strict=True):
        assert_as_accurate(*triple, name, rounding_factor)


@each_groups
@each_norm
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_value_and_gradients(backend, shape, groups, norm, dtype):
    # A GPU's random numbers put the only unit of this case where the slope of gelu_new nearly vanishes (0.026, a
    # difference of two numbers ten times as large): what rounding there adds is measured by gradients 40 times smaller.
    near_zero_slope = DEVICE == "cuda" and (shape, groups, norm) == ((1, 1, 7, 1), 3, "pre") and dtype == torch.float32
    compare(adapter_inputs(*shape, groups, norm, dtype), 2 if near_zero_slope else 1, norm=norm)


@each_groups
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(backend, activation, groups):
    compare(adapter_inputs(3, 5, 20, 6, groups, "post", torch.float32), activation=activation)


@each_groups
@each_norm
@pytest.mark.computes(torch.float64)
def test_gradcheck(backend, norm, groups):
    inputs = adapter_inputs(2, 3, 6, 3, groups, norm, torch.float64)
    group = inputs.pop("group", None)
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]

    def call(*tensors):
        return ops.adapter(**dict(zip(inputs, tensors, strict=True)), group=group, norm=norm)

    assert torch.autograd.gradcheck(call, leaves)


@each_groups
@pytest.mark.computes(torch.bfloat16)
def test_float32_weights_beside_half_precision(backend, groups):
    inputs = adapter_inputs(3, 5, 20, 6, groups, "post", torch.float32)
    group = inputs.pop("group", None)
    x = inputs.pop("x").bfloat16()
    weights = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    y = ops.adapter(x, **weights, group=group)
    expected = plain_adapter(x.double(), **{name: w.double() for name, w in weights.items()}, group=group)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=2**-8)
    grads = torch.autograd.grad(y.float().sum(), list(weights.values()))
    assert {grad.dtype for grad in grads} == {torch.float32}


@each_groups
def test_strided_inputs(backend, groups):
    inputs = adapter_inputs(3, 5, 20, 6, groups, "post", torch.float32)
    expected = ops.adapter(**inputs)
    strided = {
        name: tensor.mT.contiguous().mT if tensor.is_floating_point() and tensor.ndim > 1 else tensor
        for name, tensor in inputs.items()
    }
    strided["x"] = torch.stack([inputs["x"], inputs["x"]], -1)[..., 0]
    torch.testing.assert_close(ops.adapter(**strided), expected)


def test_repeats_bit_for_bit(backend):
    inputs = adapter_inputs(4, 33, 100, 24, 3, "post", torch.float32)
    leaves = [tensor.requires_grad_() for name, tensor in inputs.items() if name != "group"]

    def run():
        y = ops.adapter(**inputs)
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


def test_forward_and_backward_are_an_operator_each(backend):
    """No zeros are made as the gradient of what the backward alone reads."""
    given = adapter_inputs(2, 3, 8, 2, None, "post", torch.float32)
    inputs, grad, seen = {name: one.requires_grad_() for name, one in given.items()}, torch.randn_like(given["x"]), []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.overloadpacket._qualified_op_name.partition("::")[2])
            return function(*args, **(kwargs or {}))

    with Seen():
        torch.autograd.grad(ops.adapter(**inputs), list(inputs.values()), grad)
    assert [name for name in seen if name != "detach"] == ["adapter", "adapter_backward"]


@each_groups
@each_norm
def test_opcheck(operators, norm, groups):
    inputs = adapter_inputs(2, 3, 6, 3, groups, norm, torch.float32)
    group = inputs.pop("group", None)
    names = ("x", "down_weight", "down_bias", "up_weight", "up_bias")
    names += ("norm_weight", "norm_bias", "pre_norm_weight", "pre_norm_bias")
    tensors = [inputs[name].requires_grad_() if name in inputs else None for name in names]
    torch.library.opcheck(operators.adapter.default, (*tensors, group, norm, "gelu_new", 1e-5))


def test_compiles_without_graph_breaks(backend):
    compiled = torch.compile(ops.adapter, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (16, 24):
        inputs = adapter_inputs(2, tokens, 32, 8, 3, "post", torch.float32)
        inputs["x"].requires_grad_()
        (grad,) = torch.autograd.grad(compiled(**inputs).square().sum(), inputs["x"])
        (expected,) = torch.autograd.grad(ops.adapter(**inputs).square().sum(), inputs["x"])
        torch.testing.assert_close(grad, expected)


def test_autocast_changes_nothing(backend):
    inputs = adapter_inputs(2, 5, 20, 6, None, "post", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ops.adapter(**inputs)
    assert torch.equal(inside, ops.adapter(**inputs))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"down_weight": torch.zeros(4, 15)}, ValueError, r"down_weight must have shape \(4, 16\), got \(4, 15\)"),
        ({"down_weight": torch.zeros(0, 16)}, ValueError, "down_weight must have at least one bottleneck unit, got 0"),
        ({"down_bias": torch.zeros(5)}, ValueError, r"down_bias must have shape \(4,\), got \(5,\)"),
        ({"up_weight": torch.zeros(16, 4).double()}, TypeError, "up_weight must be torch.float32, got torch.float64"),
        ({"up_bias": torch.zeros(16, dtype=torch.int64)}, TypeError, "up_bias must be torch.float32"),
        ({"norm_weight": None}, ValueError, "norm_weight must be given for norm 'post', got None"),
        ({"pre_norm_bias": torch.zeros(16)}, ValueError, "pre_norm_bias must be None for norm 'post', got a tensor"),
        ({"norm": "after"}, ValueError, "norm must be one of post, pre, both, none, got 'after'"),
        ({"activation": "tanh"}, ValueError, "activation must be one of .*, got 'tanh'"),
        ({"eps": -1.0}, ValueError, "eps must be at least 0, got -1"),
        ({"x": torch.zeros(2, 3, 16, dtype=torch.int64)}, TypeError, "x must be a floating tensor, got torch.int64"),
        ({"x": torch.zeros(())}, ValueError, "x must have at least 1 dimensions, got 0"),
        ({"group": torch.zeros(2, dtype=torch.int64)}, ValueError, "down_weight must have 3 dimensions, got 2"),
    ],
    ids=str,
)
def test_rejects(backend, change, error, message):
    inputs = adapter_inputs(2, 3, 16, 4, None, "post", torch.float32)
    with pytest.raises(error, match=message):
        ops.adapter(**inputs | change)


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        (torch.tensor([0, 3]), IndexError, "group must be from 0 to 2, got 3"),
        (torch.tensor([-1, 0]), IndexError, "group must be from 0 to 2, got -1"),
        (torch.tensor([0]), ValueError, r"group must have shape \(2,\), got \(1,\)"),
        (torch.tensor([0.0, 1.0]), TypeError, "group must be torch.int64, got torch.float32"),
    ],
    ids=str,
)
def test_rejects_groups(backend, group, error, message):
    inputs = adapter_inputs(2, 3, 16, 4, 3, "post", torch.float32)
    with pytest.raises(error, match=message):
        ops.adapter(**inputs | {"group": group})
