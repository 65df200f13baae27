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
from helpers.cases import ACTIVATIONS, NORMS, adapter_inputs, lora_inputs
from helpers.conditions import NAMES, make_tensors
from helpers.conditions import call as call_condition
from helpers.conditions import plain as plain_condition
from helpers.oracle import value_and_gradients
from helpers.pairs import adapter_pair, compare, lora_pair

from hyperloader import ops
from hyperloader.ops import _reference, _triton, why_missing
from hyperloader.reference.groups import AdapterWeights

_launch = pytest.importorskip("hyperloader.kernels._launch")
_sums = pytest.importorskip("hyperloader.kernels._sums")
adapter = pytest.importorskip("hyperloader.kernels.adapter")
lora_linear = pytest.importorskip("hyperloader.kernels.lora_linear")

pytestmark = pytest.mark.skipif(why_missing("triton") is not None, reason=str(why_missing("triton")))

each_groups = pytest.mark.parametrize("groups", [None, 4], ids=["single", "mixed"])


@pytest.fixture(autouse=True)
def triton_backend():
    with ops.use_backend("triton"):
        yield


def to_device(inputs):
    return {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


# batch, tokens, hidden, bottleneck: more tiles of tokens than processors, so that weights are summed up first; hidden
# units beyond a block and off its size; a bottleneck beyond a product's least size
@pytest.mark.parametrize("size", [(3, 50, 70, 25), (2, 5, 150, 6), (2, 5, 33, 70)], ids=str)
@each_groups
@pytest.mark.parametrize("norm", NORMS)
def test_adapter(size, groups, norm):
    compare(*adapter_pair(to_device(adapter_inputs(*size, groups, norm, torch.float32)), norm=norm))


# half-precision tokens are held in registers, but for an inner norm and beyond 1536 hidden units
@pytest.mark.parametrize(
    ("size", "groups", "norm"),
    [((3, 70, 150, 25), 4, "post"), ((1, 3, 150, 6), None, "none"), ((2, 5, 40, 6), 2, "both"),
     ((1, 3, 1540, 6), None, "post")],
    ids=str,
)  # fmt: skip
def test_adapter_in_half_precision(size, groups, norm):
    compare(*adapter_pair(to_device(adapter_inputs(*size, groups, norm, torch.float16)), norm=norm))


def test_launches_of_an_adapter(monkeypatch):
    """Few tokens are one launch; of more, and for the gradients, the weights are first summed up for an outer norm."""
    launched, launch = [], _launch.launch
    monkeypatch.setattr(
        _launch, "launch", lambda *arguments, **named: launched.append(0) or launch(*arguments, **named)
    )

    def count(function, *arguments):
        launched.clear()
        function(*arguments)
        return len(launched)

    for tokens, norm, launches in ((8, "post", 1), (8, "none", 1), (160, "post", 2), (160, "none", 1)):
        inputs = to_device(adapter_inputs(1, tokens, 16, 4, None, norm, torch.float32))
        weights = AdapterWeights(*(inputs.get(name) for name in AdapterWeights._fields))
        options = (None, norm, "gelu", 1e-5)
        if DEVICE == "cpu" or tokens == 8:  # a GPU has more processors than these tokens have tiles
            assert count(adapter.forward, inputs["x"], weights, *options) == launches
        pre = inputs["x"].new_zeros(1, tokens, 4)
        backward = (inputs["x"], inputs["x"], pre, weights, *options)
        assert count(adapter.backward, *backward) == (4 if norm == "post" else 3)


def test_more_sentences_than_are_looked_at_in_one_step(monkeypatch):
    for module in (_sums, adapter, lora_linear):
        monkeypatch.setattr(module, "SENTENCES", 8)
    compare(*adapter_pair(to_device(adapter_inputs(20, 1, 16, 4, 3, "post", torch.float32))))
    compare(*lora_pair(to_device(lora_inputs(20, 1, 16, 8, 2, 3, torch.float32)), 0.5))


@pytest.mark.parametrize("norm", ["post", "both"])
def test_adapter_of_groups_without_sentences(norm):
    """Of five groups two have sentences, in no order: the others' gradients are zero, not what the memory held."""
    inputs = to_device(adapter_inputs(5, 3, 40, 6, 5, norm, torch.float32))
    inputs["group"] = torch.tensor([3, 0, 3, 0, 3], device=DEVICE)
    tested, plain, tensors, names = adapter_pair(inputs, norm=norm)
    compare(tested, plain, tensors, names)
    grads = value_and_gradients(tested, tensors, torch.randn_like(inputs["x"]))
    for name, grad in zip(names[1:], grads[2:], strict=True):
        assert not grad[[1, 2, 4]].any(), name
        assert grad[0].any(), name
        assert grad[3].any(), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_from_one_end_to_the_other(activation):
    """Through an adapter that passes them on; values and slopes as PyTorch's in float64 to a few roundings, NaN too."""
    ends = torch.tensor([-3e38, -1e30, -1e4, -88.0, -0.0, 0.0, 1e-30, 88.0, 1e4, 1e30, 1e38])
    pre = torch.cat([torch.linspace(-30, 30, 201), ends]).reshape(-1, 1).to(DEVICE).requires_grad_()
    one, zero = torch.ones(1, 1, device=DEVICE), torch.zeros(1, device=DEVICE)
    value = ops.adapter(pre, one, zero, one, zero, norm="none", activation=activation) - pre
    (slope,) = torch.autograd.grad(value.sum(), pre)
    exact_pre = pre.detach().double().requires_grad_()
    expected = ACTIVATIONS[activation](exact_pre)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exact_pre)
    rounding = torch.finfo(torch.float32).eps
    scale = 1 + 2 * exact_pre.detach().abs()  # x itself was added and taken away again
    assert ((value.detach().double() - expected.detach()).abs() / scale).max() < 2 * rounding
    assert (slope.double() - expected_slope).abs().max() < 16 * rounding
    nan = torch.full((1, 1), float("nan"), device=DEVICE)
    assert ops.adapter(nan, one, zero, one, zero, norm="none", activation=activation).isnan().all()


@pytest.mark.parametrize("spread", [1.0, 0.01])
@pytest.mark.parametrize("tokens", [40, 70])
def test_adapter_whose_columns_cancel(spread, tokens):
    """The norm's input is small beside the products that it is a sum of: the result is as good as PyTorch's, and so are
    the gradients of what lies before the norm's input; those of its sums lose a digit, not four."""
    inputs = to_device(adapter_inputs(2, tokens, 96, 12, None, "post", torch.float32))
    inputs["down_weight"] *= spread
    inputs["down_bias"].fill_(3)
    inputs["up_weight"] *= 10
    middle = torch.nn.functional.gelu(inputs["down_bias"], approximate="tanh")
    inputs["up_bias"] = -(inputs["up_weight"] @ middle)
    tested, plain, tensors, names = adapter_pair(inputs)
    grad = torch.randn_like(inputs["x"])
    exact = value_and_gradients(plain, [tensor.double() for tensor in tensors], grad)
    errors = [
        [(found.double() - expected).abs().max().item() for found, expected in zip(results, exact, strict=True)]
        for results in (value_and_gradients(function, tensors, grad) for function in (tested, plain))
    ]
    for name, ours, theirs, bound in zip(("y", *names), *errors, (2, *[16] * len(names)), strict=True):
        assert ours <= bound * theirs + 1e-6, f"{name}: error {ours:.1e}, PyTorch's is {theirs:.1e}"


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
