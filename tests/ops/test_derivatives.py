"""Forward-mode derivatives, those of torch.func and second ones: the reference has them, the kernels refuse."""

import os
import subprocess
import sys

import pytest
import torch
from helpers.cases import NORMS, adapter_inputs, lora_inputs
from helpers.conditions import call as call_condition
from helpers.conditions import make_tensors
from torch.autograd import forward_ad

from hyperloader import ops

WITHOUT = "forward-mode derivative"


def adapter_case(dtype, groups, norm="post"):
    inputs = adapter_inputs(3, 4, 7, 3, groups, norm, dtype)
    group = inputs.pop("group", None)
    return lambda *tensors: ops.adapter(**dict(zip(inputs, tensors, strict=True)), group=group, norm=norm), inputs


def lora_case(dtype, groups):
    inputs = lora_inputs(3, 4, 7, 5, 2, groups, dtype)
    group = inputs.pop("group", None)
    return lambda *tensors: ops.lora_linear(*tensors, group=group, scaling=0.5), inputs


def linears_case(dtype, groups):
    inputs = lora_inputs(3, 4, 7, 5, 2, groups, dtype)
    group = inputs.pop("group", None)

    def call(x, weight, bias, lora_A, lora_B):
        lists = [[tensor, 2 * tensor] for tensor in (weight, bias, lora_A, lora_B)]
        return torch.cat(ops.lora_linears(x, *lists, group=group), -1)

    return call, inputs


def generate_case(dtype):
    tensors = [torch.randn(shape, dtype=dtype) for shape in ((3, 5), (4, 5), (2, 5), (2,))]
    return lambda rows, one, two, bias: torch.cat(ops.generate(rows, [one, two], [None, bias]), -1), tensors


def condition_case(dtype):
    return call_condition, make_tensors(dtype=dtype)


CASES = {
    **{f"adapter {norm}": lambda dtype, norm=norm: adapter_case(dtype, None, norm) for norm in NORMS},
    "adapter, mixed": lambda dtype: adapter_case(dtype, 2),
    "lora_linear": lambda dtype: lora_case(dtype, None),
    "lora_linear, mixed": lambda dtype: lora_case(dtype, 2),
    "lora_linears, mixed": lambda dtype: linears_case(dtype, 2),
    "generate": generate_case,
    "condition": condition_case,
}
each_case = pytest.mark.parametrize("name", CASES)


def case(name, backend):
    """The operator as a function of its tensors, and those; the reference's in float64, so that it can be exact."""
    function, tensors = CASES[name](torch.float64 if backend == "reference" else torch.float32)
    return function, tuple(tensors.values() if isinstance(tensors, dict) else tensors)


def forward_mode(function, tensors, tangents, **options):
    """The derivative of ``function`` along ``tangents``, None where a tensor has none."""
    with forward_ad.dual_level():
        duals = [
            tensor if tangent is None else forward_ad.make_dual(tensor.clone().requires_grad_(**options), tangent)
            for tensor, tangent in zip(tensors, tangents, strict=True)
        ]
        return forward_ad.unpack_dual(function(*duals)).tangent


def reverse_mode(function, tensors, grad):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(function(*leaves), leaves, grad)


@each_case
def test_forward_mode(backend, name):
    """⟨g, J v⟩ = ⟨Jᵀ g, v⟩, the right side being reverse mode's."""
    function, tensors = case(name, backend)
    tangents = tuple(torch.randn_like(tensor) for tensor in tensors)
    ways = {
        "jvp": lambda: torch.func.jvp(function, tensors, tangents)[1],
        "dual tensors": lambda: forward_mode(function, tensors, tangents, requires_grad=False),
        "dual tensors with gradients": lambda: forward_mode(function, tensors, tangents, requires_grad=True),
        "jacfwd": lambda: torch.func.jacfwd(
            lambda scale: function(*(t + scale * v for t, v in zip(tensors, tangents, strict=True)))
        )(tensors[0].new_zeros(())),
    }
    grad = torch.randn_like(function(*tensors))
    gradients = reverse_mode(function, tensors, grad)
    expected = sum((g * v).sum() for g, v in zip(gradients, tangents, strict=True))
    for way in ways.values():
        if backend == "reference":
            torch.testing.assert_close((grad * way()).sum(), expected)
        else:
            with pytest.raises(NotImplementedError, match=WITHOUT):
                way()


@each_case
def test_the_tangent_of_one_tensor_alone(backend, name):
    function, tensors = case(name, backend)
    gradients = reverse_mode(function, tensors, torch.ones_like(function(*tensors)))
    for i, gradient in enumerate(gradients):
        tangents = [torch.randn_like(tensor) if i == j else None for j, tensor in enumerate(tensors)]
        if backend == "reference":
            found = forward_mode(function, tensors, tangents, requires_grad=False).sum()
            torch.testing.assert_close(found, (gradient * tangents[i]).sum())
        else:
            with pytest.raises(NotImplementedError, match=WITHOUT):
                forward_mode(function, tensors, tangents, requires_grad=False)


@each_case
def test_the_tangent_of_a_gradient_alone(backend, name):
    """The backward is linear in the gradient that it is given: along g it is what it is for g."""
    function, tensors = case(name, backend)
    leaf = tensors[0].clone().requires_grad_()
    y = function(leaf, *tensors[1:])
    along = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, leaf, along, retain_graph=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones_like(y), along)
        if backend == "reference":
            (grad,) = torch.autograd.grad(y, leaf, dual)
            torch.testing.assert_close(forward_ad.unpack_dual(grad).tangent, expected)
        else:
            with pytest.raises(NotImplementedError, match=WITHOUT):
                torch.autograd.grad(y, leaf, dual)


@each_case
def test_torch_func_grad(backend, name):
    function, tensors = case(name, backend)

    def loss(x):
        return function(x, *tensors[1:]).square().sum()

    batch = torch.stack([tensors[0], 2 * tensors[0]])
    if backend == "reference":
        expected = [torch.autograd.grad(loss(x), x)[0] for x in (one.clone().requires_grad_() for one in batch)]
        torch.testing.assert_close(torch.func.grad(loss)(tensors[0]), expected[0])
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(batch), torch.stack(expected))
        torch.testing.assert_close(torch.func.jacrev(loss)(tensors[0]), expected[0])
    else:
        for way in (torch.func.grad(loss), torch.func.jacrev(loss)):
            with pytest.raises(NotImplementedError, match="no derivative inside torch.func"):
                way(tensors[0])


@each_case
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(backend, name):
    """A backend computes it right, or says that it has no rule for lists."""
    function, tensors = case(name, backend)
    batch = torch.stack([tensors[0], 2 * tensors[0]])

    def batched():
        return torch.func.vmap(lambda x: function(x, *tensors[1:]))(batch)

    if backend != "reference" and name.startswith(("generate", "lora_linears")):
        with pytest.raises(RuntimeError, match="Batching rule not implemented"):
            batched()
    else:
        torch.testing.assert_close(batched(), torch.stack([function(x, *tensors[1:]) for x in batch]))


@each_case
def test_second_derivative(backend, name):
    function, tensors = case(name, backend)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    if backend == "reference":
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
        return
    (grad,) = torch.autograd.grad(function(*leaves).square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="derivative"):
        grad.sum().backward()


@each_case
def test_compiled_forward_mode(backend, name):
    """In a graph as outside of it: right, or refused; never zero."""
    function, tensors = case(name, backend)
    tangent = torch.randn_like(tensors[0])

    def along(x, tangent):
        return torch.func.jvp(lambda x: function(x, *tensors[1:]), (x,), (tangent,))[1]

    torch._dynamo.reset()
    compiled = torch.compile(along, fullgraph=backend != "reference", backend="aot_eager")
    if backend == "reference":
        torch.testing.assert_close(compiled(tensors[0], tangent), along(tensors[0], tangent))
    else:
        with pytest.raises(Exception, match=WITHOUT):
            compiled(tensors[0], tangent)
        torch._dynamo.reset()  # or the frames that failed are left alone from now on


def test_without_the_extension():
    """Then the reference computes under the native names, and has the same derivatives."""
    code = """
import torch
from hyperloader import ops
x, weight, A, B = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 7), (5, 7), (2, 7), (5, 2)))
function = lambda x: ops.lora_linear(x, weight, None, A, B)
torch.testing.assert_close(torch.func.jvp(function, (x,), (x,))[1], function(x))
torch.testing.assert_close(torch.func.grad(lambda x: function(x).sum())(x), (weight + B @ A).sum(0).expand(3, -1))
"""
    environment = os.environ | {"HYPERLOADER_NATIVE": "none", "HYPERLOADER_BACKEND": "auto"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
