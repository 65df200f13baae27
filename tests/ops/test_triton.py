"""The Triton kernels: groups without sentences, sizes off every block, several linears at once, limits.

tests/ops/test_<operator>.py runs every backend; here is what these kernels alone can get wrong. Without a GPU they are
interpreted, so the shapes are small.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import DEVICE
from helpers.cases import adapter_inputs, lora_inputs
from helpers.conditions import NAMES, make_tensors
from helpers.conditions import call as call_condition
from helpers.conditions import plain as plain_condition
from helpers.on_triton import each_groups, needs_triton, to_device
from helpers.pairs import compare, lora_pair

from hyperloader import ops
from hyperloader.ops import _reference, _triton
from hyperloader.reference.groups import AdapterWeights

adapter = pytest.importorskip("hyperloader.kernels.adapter")

pytestmark = needs_triton


@pytest.mark.parametrize("size", [(3, 50, 70, 33, 5), (2, 5, 40, 140, 17)], ids=str)
@each_groups
def test_lora_linear(size, groups):
    compare(*lora_pair(to_device(lora_inputs(*size, groups, torch.float32)), 0.5))


@each_groups
def test_lora_linear_in_half_precision(groups):
    """Several of its larger tiles of tokens a program, which adds to its sums."""
    compare(*lora_pair(to_device(lora_inputs(3, 270, 70, 33, 5, groups, torch.float16)), 0.5))


@each_groups
def test_two_lora_linears_are_two_single_ones(groups):
    one, other = (
        to_device(lora_inputs(3, 9, 40, size, rank, groups, torch.float32)) for size, rank in ((24, 8), (33, 5))
    )
    layers = [
        [layer[name].requires_grad_() for layer in (one, other)] for name in ("weight", "bias", "lora_A", "lora_B")
    ]
    x, group = one["x"].requires_grad_(), one.get("group")
    leaves = [x, *(tensor for tensors in layers for tensor in tensors)]
    together = ops.lora_linears(x, *layers, group=group, scaling=0.5)
    single = [ops.lora_linear(x, *(tensors[i] for tensors in layers), group=group, scaling=0.5) for i in range(2)]
    grads = [torch.randn_like(y) for y in single]
    found, expected = (torch.autograd.grad(ys, leaves, grads) for ys in (together, single))
    for a, b in zip((*together, *found), (*single, *expected), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows", [3, 70])
def test_generate_beyond_one_block(rows):
    """Of rows, of outputs and of the condition; the blocks of a head are dealt out in turn."""
    sizes = (150, 1, 70, 5)
    condition = torch.randn(rows, 80, device=DEVICE)
    weights = [torch.randn(size, 80, device=DEVICE) / 9 for size in sizes]
    bias = torch.randn(70, device=DEVICE)

    def run(function):
        return lambda condition, bias, *weights: torch.cat(function(condition, weights, [None, None, bias, None]), 1)

    def plain(condition, weights, biases):
        return [torch.nn.functional.linear(condition, w, b) for w, b in zip(weights, biases, strict=True)]

    compare(run(ops.generate), run(plain), [condition, bias, *weights], ["condition", "bias", *map(str, sizes)])


def test_condition_beyond_one_block():
    """More tasks than a program takes, more hidden units and numbers than are multiplied at once."""
    tensors = [tensor.to(DEVICE) for tensor in make_tensors(tasks=20, size=40, hidden=70, condition_dim=40)]
    compare(call_condition, plain_condition, tensors, NAMES)


def calls():
    """A call of every operator with gradients, on inputs that are split among several programs."""
    of_adapter = adapter_inputs(4, 40, 70, 24, 3, "both", torch.float32)
    of_lora = lora_inputs(4, 40, 70, 33, 8, 3, torch.float32)
    heads = [torch.randn(24, 20), [torch.randn(100, 20), torch.randn(7, 20)], [torch.randn(100), None]]
    return {
        "adapter": (of_adapter, lambda inputs: ops.adapter(**inputs, norm="both")),
        "lora_linear": (of_lora, lambda inputs: ops.lora_linear(**inputs)),
        "generate": (
            {"condition": heads[0], "first": heads[1][0], "second": heads[1][1], "bias": heads[2][0]},
            lambda i: torch.cat(ops.generate(i["condition"], [i["first"], i["second"]], [i["bias"], None]), 1),
        ),
    }


@pytest.mark.parametrize("name", ["adapter", "lora_linear", "generate"])
def test_repeats_bit_for_bit(name):
    inputs, call = calls()[name]
    inputs = to_device(inputs)
    leaves = [tensor.requires_grad_() for tensor in inputs.values() if tensor.is_floating_point()]

    def run():
        y = call(inputs)
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    for one, other in zip(run(), run(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_group_out_of_range_is_clamped_in_the_kernel(wrong):
    """On a GPU indices are not checked before the kernel runs: here it is called past the operator's check."""
    inputs = to_device(adapter_inputs(2, 3, 16, 4, 4, "post", torch.float32))
    group, weights = inputs["group"], AdapterWeights(*(inputs.get(name) for name in AdapterWeights._fields))
    y = [
        adapter.forward(inputs["x"], weights, torch.full_like(group, index), "post", "gelu", 1e-5)[0]
        for index in (wrong, min(max(wrong, 0), 3))
    ]
    assert torch.equal(*y)


def test_refuses_float64():
    inputs = to_device(adapter_inputs(2, 3, 16, 4, None, "post", torch.float64))
    with pytest.raises(TypeError, match="the Triton adapter computes float32, float16 and bfloat16, got torch.float64"):
        ops.adapter(**inputs)
    inputs = to_device(lora_inputs(2, 3, 16, 4, 2, None, torch.float64))
    with pytest.raises(TypeError, match="the Triton lora_linear computes .*, got torch.float64"):
        ops.lora_linear(**inputs)
    with pytest.raises(TypeError, match="the Triton generate computes .*, got torch.float64"):
        ops.generate(torch.zeros(2, 4, device=DEVICE), [], [], dtype=torch.float64)


def test_refuses_what_a_program_cannot_hold():
    inputs = to_device(adapter_inputs(1, 1, 4, 129, None, "none", torch.float32))
    with pytest.raises(ValueError, match="the Triton adapter takes bottlenecks up to 128, got 129"):
        ops.adapter(**inputs, norm="none")
    inputs = to_device(lora_inputs(1, 1, 4, 4, 129, None, torch.float32))
    with pytest.raises(ValueError, match=r"the Triton lora_linear takes ranks .* up to 128, got 129"):
        ops.lora_linear(**inputs)


def test_says_why_it_cannot_run():
    """Neither a GPU nor the interpreter; and importing the package brings in no Triton."""
    code = "import sys, hyperloader; assert 'triton' not in sys.modules; print(hyperloader.ops.why_missing('triton'))"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = environment["HIP_VISIBLE_DEVICES"] = ""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("there is no GPU, and TRITON_INTERPRET=1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("__version__ = '3.3.1'", "the kernels need Triton 3.4, and 3.3 is installed"), (None, "triton is not installed")],
)
def test_says_which_triton_it_needs(monkeypatch, tmp_path, text, reason):
    (tmp_path / "__init__.py").write_text(text or "")
    found = text and SimpleNamespace(origin=tmp_path / "__init__.py")
    monkeypatch.setattr(_triton, "PathFinder", SimpleNamespace(find_spec=lambda name: found))
    assert _triton.why_missing() == reason
    assert not _triton.installed()


def test_the_reference_takes_what_the_kernels_refuse():
    """As on a GPU under `auto`: float64, and more bottleneck units than a program holds."""
    for dtype, bottleneck in ((torch.float64, 4), (torch.float32, 129)):
        inputs = to_device(adapter_inputs(2, 3, 16, bottleneck, None, "post", dtype))
        arguments = (*inputs.values(), None, None, None, "post", "gelu", 1e-5)
        y, pre = _triton._kernel_or_reference("adapter")(*arguments)
        expected, expected_pre = _reference.REFERENCE["adapter"](*arguments)
        assert torch.equal(y, expected)
        grads = _triton._kernel_or_reference("adapter_backward")(y, arguments[0], pre, *arguments[1:])
        expected = _reference.REFERENCE["adapter_backward"](y, arguments[0], expected_pre, *arguments[1:])
        assert all(torch.equal(one, other) for one, other in zip(grads, expected, strict=True))


@pytest.mark.parametrize("name", _reference.REFERENCE)
@torch.no_grad()
def test_fits(name):
    """What a GPU's kernel looks at before it is chosen, found among the arguments of every operator."""
    from helpers.calls import CASES

    def in_dtype(dtype):
        return torch.utils._pytree.tree_map_only(
            torch.Tensor, lambda one: one.to(dtype) if one.is_floating_point() else one, CASES[name]()
        )

    assert _triton.fits(name, tuple(in_dtype(torch.float16)))
    assert not _triton.fits(name, tuple(in_dtype(torch.float64)))
