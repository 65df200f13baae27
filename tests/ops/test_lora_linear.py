"""ops.lora_linear: every backend against the float64 formula."""

import pytest
import torch
from helpers.cases import lora_inputs, plain_lora_linear
from helpers.oracle import assert_as_accurate, value_and_gradients

from hyperloader import ops

# (batch, tokens, in_features, out_features, rank)
SHAPES = [(4, 16, 64, 64, 8), (3, 11, 100, 72, 5), (1, 1, 7, 3, 1), (2, 0, 16, 16, 4)]

each_groups = pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])


@each_groups
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_value_and_gradients(backend, shape, groups, dtype):
    inputs = lora_inputs(*shape, groups, dtype)
    group = inputs.pop("group", None)
    tensors = list(inputs.values())
    grad = torch.randn(*shape[:2], shape[3], dtype=dtype)

    def call(function):
        return lambda *arguments: function(*arguments, group=group, scaling=0.5)

    oracle = value_and_gradients(call(plain_lora_linear), [tensor.double() for tensor in tensors], grad)
    eager = value_and_gradients(call(plain_lora_linear), tensors, grad)
    actual = value_and_gradients(call(ops.lora_linear), tensors, grad)
    for name, *triple in zip(["y", *(f"grad_{name}" for name in inputs)], actual, eager, oracle, strict=True):
        assert_as_accurate(*triple, name)


@each_groups
@pytest.mark.parametrize("frozen", [("weight", "bias"), ("x", "weight", "bias"), ("lora_A", "lora_B")], ids=str)
@pytest.mark.computes(torch.float64)
def test_only_what_is_needed_gets_a_gradient(backend, frozen, groups):
    inputs = lora_inputs(2, 3, 6, 5, 2, groups, torch.float64)
    group = inputs.pop("group", None)
    leaves = {name: tensor.clone().requires_grad_(name not in frozen) for name, tensor in inputs.items()}
    ops.lora_linear(**leaves, group=group).square().sum().backward()
    plain = {name: tensor.clone().requires_grad_(name not in frozen) for name, tensor in inputs.items()}
    plain_lora_linear(**plain, group=group).square().sum().backward()
    for name, leaf in leaves.items():
        if name in frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, plain[name].grad)


@each_groups
@pytest.mark.computes(torch.float64)
def test_gradcheck_without_bias(backend, groups):
    inputs = lora_inputs(2, 3, 4, 5, 2, groups, torch.float64)
    group = inputs.pop("group", None)
    x, weight, _, lora_A, lora_B = (tensor.requires_grad_() for tensor in inputs.values())
    assert torch.autograd.gradcheck(
        lambda *tensors: ops.lora_linear(tensors[0], tensors[1], None, *tensors[2:], group=group, scaling=0.5),
        (x, weight, lora_A, lora_B),
    )


@each_groups
def test_opcheck(operators, groups):
    inputs = lora_inputs(2, 3, 4, 5, 2, groups, torch.float32)
    group = inputs.pop("group", None)
    tensors = [tensor.requires_grad_() for tensor in inputs.values()]
    torch.library.opcheck(operators.lora_linear.default, (*tensors, group, 0.5))


def test_compiles_without_graph_breaks(backend):
    compiled = torch.compile(ops.lora_linear, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (16, 24):
        inputs = lora_inputs(2, tokens, 32, 24, 4, 3, torch.float32)
        inputs["x"].requires_grad_()
        (grad,) = torch.autograd.grad(compiled(**inputs).square().sum(), inputs["x"])
        (expected,) = torch.autograd.grad(ops.lora_linear(**inputs).square().sum(), inputs["x"])
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(5, 7)}, ValueError, r"weight must have shape \(out_features, 4\), got \(5, 7\)"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(5,\), got \(4,\)"),
        ({"lora_A": torch.zeros(0, 4)}, ValueError, "lora_A must have at least rank 1, got rank 0"),
        ({"lora_A": torch.zeros(2, 3)}, ValueError, r"lora_A must have shape \(2, 4\), got \(2, 3\)"),
        ({"lora_B": torch.zeros(5, 3)}, ValueError, r"lora_B must have shape \(5, 2\), got \(5, 3\)"),
        ({"lora_B": torch.zeros(5, 2).double()}, TypeError, "lora_B must be torch.float32, got torch.float64"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int32)}, TypeError, "x must be a floating tensor"),
        ({"group": torch.tensor([0, 0])}, ValueError, "lora_A must have 3 dimensions, got 2"),
    ],
    ids=str,
)
def test_rejects(backend, change, error, message):
    inputs = lora_inputs(2, 3, 4, 5, 2, None, torch.float32)
    with pytest.raises(error, match=message):
        ops.lora_linear(**inputs | change)


def test_rejects_a_group_out_of_range(backend):
    inputs = lora_inputs(2, 3, 4, 5, 2, 3, torch.float32)
    with pytest.raises(IndexError, match="group must be from 0 to 2, got 3"):
        ops.lora_linear(**inputs | {"group": torch.tensor([0, 3])})
