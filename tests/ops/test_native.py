"""The extension: options of its operators, and what only C++ can get wrong. test_cpu_loops.py tries sizes."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.cases import ACTIVATIONS, NORMS, adapter_inputs, lora_inputs
from helpers.pairs import adapter_pair, compare, lora_pair
from torch.nn import functional

from hyperloader import ops
from hyperloader.ops import native

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native extension: {native.reason}")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_groups = pytest.mark.parametrize("groups", [None, 3], ids=["single", "mixed"])


@pytest.fixture(autouse=True)
def native_backend():
    with ops.use_backend("native"):
        yield


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_adapter_activations(norm, activation):
    inputs = adapter_inputs(4, 6, 24, 5, 2, norm, torch.float64)
    compare(*adapter_pair(inputs, norm=norm, activation=activation))


def test_adapter_of_a_group_without_sentences():
    """Its gradient is zero, not whatever the memory held."""
    inputs = adapter_inputs(4, 3, 10, 2, 5, "post", torch.float64)
    inputs["group"] = torch.tensor([3, 0, 3, 0])
    weight = inputs["up_weight"].requires_grad_()
    ops.adapter(**inputs).sum().backward()
    assert (weight.grad[[1, 2, 4]] == 0).all()
    assert (weight.grad[[0, 3]] != 0).any()


@each_groups
@pytest.mark.parametrize("half", [("x",), ("x", "weight", "bias"), ("x", "lora_A", "lora_B")], ids=str)
def test_lora_linear_with_float32_weights_beside_bfloat16(groups, half):
    inputs = lora_inputs(3, 9, 40, 24, 4, groups, torch.float32)
    inputs |= {name: inputs[name].bfloat16() for name in half}
    compare(*lora_pair(inputs, 2.0))


def test_lora_linear_computes_only_the_gradients_that_are_wanted():
    inputs = lora_inputs(2, 3, 8, 6, 2, None, torch.float32)
    inputs["lora_B"].requires_grad_()
    inputs["bias"].requires_grad_()
    ops.lora_linear(**inputs).sum().backward()
    assert inputs["lora_B"].grad.shape == (6, 2)
    torch.testing.assert_close(inputs["bias"].grad, torch.full((6,), 6.0))
    needed = [False, False, False, True, False]
    x, *layer = ([inputs[name].detach()] for name in ("x", "weight", "lora_A", "lora_B"))
    found = torch.ops.hyperloader.lora_linears_backward([torch.randn(2, 3, 6)], *x, *layer, None, 1.0, needed)
    assert [tuple(tensor.shape) for tensor in found] == [(2, 8)]


@each_dtype
def test_generate(dtype):
    rows, condition_dim, sizes = 6, 16, (40, 7, 1)
    condition = torch.randn(rows, condition_dim).to(dtype)
    weights = [(torch.randn(size, condition_dim) / 4).to(dtype) for size in sizes]
    biases = [torch.randn(size).to(dtype) for size in (sizes[0], sizes[2])]

    def tested(condition, *heads):
        results = ops.generate(condition, heads[:3], [heads[3], None, heads[4]])
        return torch.cat(results, 1)

    def plain(condition, *heads):
        results = [functional.linear(condition, *pair) for pair in zip(heads, (heads[3], None, heads[4]), strict=False)]
        return torch.cat(results, 1)

    names = ["condition", *(f"weights[{i}]" for i in range(3)), "biases[0]", "biases[2]"]
    compare(tested, plain, [condition, *weights, *biases], names)


def test_a_second_derivative_is_refused():
    inputs = adapter_inputs(2, 3, 8, 2, None, "post", torch.float64)
    x = inputs["x"].requires_grad_()
    (grad,) = torch.autograd.grad(ops.adapter(**inputs).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for hyperloader::adapter_backward is not implemented"):
        grad.sum().backward()


def test_the_extension_needs_no_package():
    """Loaded as a program without the package does: schemas, checks, autograd and kernels are all in it."""
    code = """
import sys, torch
torch.ops.load_library(sys.argv[1])
x, weight, lora_A, lora_B = (torch.ones(shape, requires_grad=True) for shape in ((2, 3), (4, 3), (1, 3), (4, 1)))
y = torch.ops.hyperloader.lora_linear(x, weight, None, lora_A, lora_B, None, 1.0)
y.sum().backward()
print(y.tolist() == [[6.0] * 4] * 2, lora_A.grad.tolist() == [[8.0] * 3], "hyperloader" in sys.modules)
"""
    command = [sys.executable, "-c", code, native.extension().__file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


def test_threads_at_once():
    """Several Python threads compute at once, each its own result, and the GIL is free meanwhile."""
    inputs = [adapter_inputs(4, 8, 32, 4, 3, "post", torch.float32) for _ in range(8)]
    expected = [ops.adapter(**each) for each in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda each: ops.adapter(**each), inputs)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_build_info():
    info = native.build_info()
    built = {"compiler", "flags", "cxx_standard", "torch", "instruction_sets", "cuda"}
    assert set(info) == built | {"instruction_set", "multiplies_bfloat16"}
    assert info["torch"] == torch.__version__.partition("+")[0]
    assert info["cxx_standard"] >= 17
    assert info["instruction_set"] in info["instruction_sets"]
