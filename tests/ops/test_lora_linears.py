"""ops.lora_linears: layers that read the same x, against one call of the plain formula for each."""

import pytest
import torch
from conftest import DEVICE
from helpers.cases import lora_inputs, plain_lora_linear
from helpers.oracle import assert_as_accurate, value_and_gradients

from hyperloader import ops
from hyperloader.ops import native

NAMES = ("weight", "bias", "lora_A", "lora_B")
SIZES = [(24, 8), (24, 8), (17, 3)]  # (out_features, rank) of every layer

each_groups = pytest.mark.parametrize("groups", [None, 3], ids=["one task", "three tasks"])


def make_inputs(batch, tokens, in_features, groups, dtype, sizes=SIZES):
    """``x``, ``group`` or None, and the lists of what the layers have."""
    layers = [lora_inputs(batch, tokens, in_features, *size, groups, dtype) for size in sizes]
    return layers[0]["x"], layers[0].get("group"), {name: [layer[name] for layer in layers] for name in NAMES}


def call(function, group, has_bias=True):
    """``function`` of flat tensors: x, then all weights, all biases, all lora_A, all lora_B."""

    def run(x, *tensors):
        n = len(tensors) // (4 if has_bias else 3)
        lists = [list(tensors[i : i + n]) for i in range(0, len(tensors), n)]
        if not has_bias:
            lists.insert(1, None)
        return torch.cat(function(x, *lists, group=group, scaling=0.5), -1)

    return run


def plainly(x, weights, biases, lora_A, lora_B, *, group, scaling):
    biases = biases or [None] * len(weights)
    layers = zip(weights, biases, lora_A, lora_B, strict=True)
    return [plain_lora_linear(x, *layer, group=group, scaling=scaling) for layer in layers]


@each_groups
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("size", [(4, 9, 40), (4, 64, 20), (1, 1, 5), (2, 0, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_value_and_gradients(backend, size, has_bias, groups, dtype):
    x, group, layers = make_inputs(*size, groups, dtype)
    if not has_bias:
        del layers["bias"]
    tensors = [x, *(tensor for name in layers for tensor in layers[name])]
    grad = torch.randn(*size[:2], sum(out for out, _ in SIZES), dtype=dtype)
    plain, tested = call(plainly, group, has_bias), call(ops.lora_linears, group, has_bias)
    oracle = value_and_gradients(plain, [tensor.double() for tensor in tensors], grad)
    eager = value_and_gradients(plain, tensors, grad)
    actual = value_and_gradients(tested, tensors, grad)
    names = ["y", "grad_x", *(f"grad_{name}[{i}]" for name in layers for i in range(len(SIZES)))]
    for name, *triple in zip(names, actual, eager, oracle, strict=True):
        assert_as_accurate(*triple, name)


@each_groups
@pytest.mark.parametrize("trained", [("x",), ("lora_A", "lora_B"), ("bias",), ("x", "lora_B")], ids=str)
@pytest.mark.computes(torch.float64)
def test_only_what_is_needed_gets_a_gradient(backend, trained, groups):
    x, group, layers = make_inputs(2, 3, 6, groups, torch.float64)
    x.requires_grad_("x" in trained)
    for name in NAMES:
        for tensor in layers[name]:
            tensor.requires_grad_(name in trained)
    leaves = [x, *(tensor for name in NAMES for tensor in layers[name])]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    found = torch.autograd.grad(call(ops.lora_linears, group)(*leaves).square().sum(), wanted)
    expected = torch.autograd.grad(call(plainly, group)(*leaves).square().sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.computes(torch.bfloat16)
@each_groups
def test_float32_weights_beside_strided_half_tokens(backend, groups):
    """Two runs are equal to the bit."""
    x, group, layers = make_inputs(4, 40, 24, groups, torch.float32)
    layers["weight"] = [weight.T.contiguous().T for weight in layers["weight"]]
    tensors = [x.transpose(0, 1).contiguous().transpose(0, 1).half(), *(t for name in NAMES for t in layers[name])]
    grad = torch.randn(40, 4, sum(out for out, _ in SIZES)).transpose(0, 1)
    in_half = [tensor.half() for tensor in tensors]
    oracle = value_and_gradients(call(plainly, group), [tensor.double() for tensor in tensors], grad.double())
    eager = value_and_gradients(call(plainly, group), in_half, grad.half())
    found, again = (value_and_gradients(call(ops.lora_linears, group), tensors, grad.half()) for _ in range(2))
    for i, (one, other, plain, exact) in enumerate(zip(found, again, eager, oracle, strict=True)):
        assert torch.equal(one, other)
        # Triton multiplies with TF32 there, which has the digits of float16, on a GPU
        dtype = torch.float16 if backend == "triton" and DEVICE == "cuda" else one.dtype
        assert_as_accurate(one.to(dtype), plain.to(dtype), exact, f"result {i}", rounding_factor=4)


@pytest.mark.computes(torch.float64)
def test_a_result_that_is_not_used(backend):
    x, _, layers = make_inputs(2, 5, 6, None, torch.float64)
    x.requires_grad_()
    (found,) = torch.autograd.grad(ops.lora_linears(x, *layers.values())[1].sum(), x)
    (expected,) = torch.autograd.grad(plain_lora_linear(x, *(tensors[1] for tensors in layers.values())).sum(), x)
    torch.testing.assert_close(found, expected)


@each_groups
@pytest.mark.computes(torch.float64)
def test_gradcheck(backend, groups):
    x, group, layers = make_inputs(2, 3, 4, groups, torch.float64, [(5, 2), (3, 1)])
    tensors = [tensor.requires_grad_() for tensor in (x, *(tensor for name in NAMES for tensor in layers[name]))]
    assert torch.autograd.gradcheck(call(ops.lora_linears, group), tensors)


@each_groups
def test_opcheck(operators, groups):
    x, group, layers = make_inputs(2, 3, 4, groups, torch.float32)
    lists = [[tensor.requires_grad_() for tensor in tensors] for tensors in layers.values()]
    torch.library.opcheck(operators.lora_linears.default, (x.requires_grad_(), *lists, group, 0.5))


def test_compiles_without_graph_breaks(backend):
    compiled = torch.compile(ops.lora_linears, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (16, 24):
        x, group, layers = make_inputs(2, tokens, 32, 3, torch.float32)
        x.requires_grad_()
        grads = [
            torch.autograd.grad(torch.cat(run(x, *layers.values(), group=group), -1).square().sum(), x)
            for run in (compiled, ops.lora_linears)
        ]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weights": []}, ValueError, "weights must have at least one entry, got 0"),
        ({"biases": [torch.zeros(5)]}, ValueError, r"biases must have one entry per weight \(2\), got 1"),
        ({"lora_A": [torch.zeros(2, 4)]}, ValueError, r"lora_A must have one entry per weight \(2\), got 1"),
        ({"lora_B": [torch.zeros(5, 2)] * 3}, ValueError, r"lora_B must have one entry per weight \(2\), got 3"),
        (
            {"weights": [torch.zeros(5, 4), torch.zeros(5, 3)]},
            ValueError,
            r"weights\[1\] must have shape \(out_features, 4\), got \(5, 3\)",
        ),
        ({"biases": [torch.zeros(5), torch.zeros(4)]}, ValueError, r"biases\[1\] must have shape \(5,\), got \(4,\)"),
        ({"lora_A": [torch.zeros(2, 4), torch.zeros(0, 4)]}, ValueError, r"lora_A\[1\] must have at least rank 1"),
        (
            {"lora_B": [torch.zeros(5, 2), torch.zeros(5, 3)]},
            ValueError,
            r"lora_B\[1\] must have shape \(5, 2\), got \(5, 3\)",
        ),
    ],
    ids=str,
)
def test_rejects(backend, change, error, message):
    arguments = {
        "weights": [torch.zeros(5, 4)] * 2,
        "biases": [torch.zeros(5)] * 2,
        "lora_A": [torch.zeros(2, 4)] * 2,
        "lora_B": [torch.zeros(5, 2)] * 2,
    }
    with pytest.raises(error, match=message):
        ops.lora_linears(torch.zeros(3, 4), **arguments | change)


def test_rejects_weights_of_two_dtypes(backend):
    x, _, layers = make_inputs(2, 3, 4, None, torch.bfloat16)
    layers["weight"][1] = layers["weight"][1].float()
    with pytest.raises(TypeError, match=r"weights\[1\] must be torch.bfloat16 like weights\[0\], got torch.float32"):
        ops.lora_linears(x, *layers.values())


def test_rejects_stacks_of_two_sizes(backend):
    x, group, layers = make_inputs(2, 3, 4, 3, torch.float32)
    layers["lora_A"][1] = layers["lora_A"][1][:2]
    with pytest.raises(ValueError, match=r"lora_A\[1\] must have shape \(3, 8, 4\), got \(2, 8, 4\)"):
        ops.lora_linears(x, *layers.values(), group=group)


@pytest.mark.skipif(not native.available, reason="needs the compiled extension")
@pytest.mark.parametrize("group", [None, torch.tensor([0, 1, 0, 1])], ids=["one task", "two tasks"])
def test_an_expanded_input_is_read_as_the_frozen_layer_reads_it(group):
    """With an update of zero the result is the frozen layer's to the bit, however the input lies in memory."""
    x, weight = torch.randn(1, 7, 16).expand(4, 7, 16), torch.randn(12, 16)
    groups = () if group is None else (2,)
    lora_A, lora_B = torch.randn(*groups, 3, 16), torch.zeros(*groups, 12, 3)
    with ops.use_backend("native"):
        found = ops.lora_linear(x, weight, None, lora_A, lora_B, group=group)
    assert torch.equal(found, torch.nn.functional.linear(x, weight))
