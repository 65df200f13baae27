"""ops.generate: every backend against the float64 formula."""

import pytest
import torch
from helpers.oracle import assert_as_accurate, value_and_gradients
from torch.nn import functional

from hyperloader import ops

SIZES, BIASED = (40, 7, 1), (True, False, True)


def make_inputs(rows, dtype=torch.float32, condition_dim=16):
    condition = torch.randn(rows, condition_dim, dtype=dtype)
    weights = [torch.randn(size, condition_dim, dtype=dtype) for size in SIZES]
    biases = [torch.randn(size, dtype=dtype) for size, has in zip(SIZES, BIASED, strict=True) if has]
    return condition, weights, biases


def run(function):
    """All results as one tensor, of all inputs as one list of tensors."""

    def call(condition, *tensors):
        weights, present = tensors[: len(SIZES)], iter(tensors[len(SIZES) :])
        biases = [next(present) if has else None for has in BIASED]
        return torch.cat(function(condition, list(weights), biases), -1)

    return call


def plain(condition, weights, biases):
    return [functional.linear(condition, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


@pytest.mark.parametrize("rows", [24, 1, 0])
def test_value_and_gradients(backend, rows):
    condition, weights, biases = make_inputs(rows)
    tensors = [condition, *weights, *biases]
    grad = torch.randn(rows, sum(SIZES))
    oracle = value_and_gradients(run(plain), [tensor.double() for tensor in tensors], grad)
    eager = value_and_gradients(run(plain), tensors, grad)
    actual = value_and_gradients(run(ops.generate), tensors, grad)
    for index, triple in enumerate(zip(actual, eager, oracle, strict=True)):
        assert_as_accurate(*triple, f"result {index}")


@pytest.mark.computes(torch.bfloat16)
@pytest.mark.parametrize("rows", [24, 1])
def test_all_of_it_in_bfloat16(backend, rows):
    """Where the processor has products of bfloat16, by other code."""
    condition, weights, biases = make_inputs(rows, torch.bfloat16)
    tensors = [condition, *weights, *biases]
    grad = torch.randn(rows, sum(SIZES), dtype=torch.bfloat16)
    oracle = value_and_gradients(run(plain), [tensor.double() for tensor in tensors], grad.double())
    actual = value_and_gradients(run(ops.generate), tensors, grad)
    for index, (found, exact) in enumerate(zip(actual, oracle, strict=True)):
        assert found.dtype == torch.bfloat16
        difference = (found.double() - exact).norm() / exact.norm()
        assert difference < 2**-7, f"result {index}: {difference}"


@pytest.mark.computes(torch.float64)
def test_gradcheck(backend):
    condition, weights, biases = make_inputs(3, torch.float64, 4)
    tensors = [tensor.requires_grad_() for tensor in (condition, *weights, *biases)]
    assert torch.autograd.gradcheck(run(ops.generate), tensors)


def test_an_unused_head(backend):
    condition, weights, biases = make_inputs(3)
    weights = [weight.requires_grad_() for weight in weights]
    ops.generate(condition, weights, [biases[0], None, biases[1]])[1].sum().backward()
    torch.testing.assert_close(weights[1].grad, condition.sum(0).expand(7, -1))
    assert all(weights[i].grad is None or not weights[i].grad.any() for i in (0, 2))


def test_opcheck(operators):
    condition, weights, biases = make_inputs(3)
    tensors = [tensor.requires_grad_() for tensor in (condition, *weights, *biases)]
    arguments = (tensors[0], tensors[1:4], tensors[4:], list(BIASED), None)
    torch.library.opcheck(operators.generate.default, arguments)


def test_compiles_without_graph_breaks(backend):
    compiled = torch.compile(ops.generate, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (4, 9):
        condition, weights, biases = make_inputs(rows)
        biases = [biases[0], None, biases[1]]
        for one, other in zip(
            compiled(condition, weights, biases), ops.generate(condition, weights, biases), strict=True
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.computes(torch.bfloat16)
def test_results_in_half_precision(backend):
    condition, weights, biases = make_inputs(3)
    results = ops.generate(condition, weights, [biases[0], None, biases[1]], dtype=torch.bfloat16)
    for result, expected in zip(results, plain(condition, weights, [biases[0], None, biases[1]]), strict=True):
        assert result.dtype == torch.bfloat16
        torch.testing.assert_close(result.float(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("condition", "weights", "biases", "dtype", "error", "message"),
    [
        (
            torch.zeros(2, 3, 4),
            [torch.zeros(5, 4)],
            [None],
            None,
            ValueError,
            "condition must have 2 dimensions, got 3",
        ),
        (torch.zeros(2, 4), [torch.zeros(5, 3)], [None], None, ValueError, r"weights\[0\] must have shape \(n, 4\)"),
        (torch.zeros(2, 4), [torch.zeros(5, 4)], [], None, ValueError, "biases must have one entry per weight"),
        (torch.zeros(2, 4), [torch.zeros(5, 4)], [torch.zeros(4)], None, ValueError, r"biases\[0\] must have shape"),
        (
            torch.zeros(2, 4),
            [torch.zeros(5, 4).double()],
            [None],
            None,
            TypeError,
            r"weights\[0\] must be torch.float32",
        ),
        (torch.zeros(2, 4), [torch.zeros(5, 4)], [None], torch.int64, TypeError, "dtype must be a floating dtype"),
        (torch.zeros(2, 4).long(), [], [], None, TypeError, "condition must be a floating tensor"),
    ],
    ids=range(7),
)
def test_rejects(backend, condition, weights, biases, dtype, error, message):
    with pytest.raises(error, match=message):
        ops.generate(condition, weights, biases, dtype=dtype)
