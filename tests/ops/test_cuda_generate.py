"""The CUDA kernels of weight generation at sizes where blocks, rows in turn and accesses of 16 bytes differ."""

import pytest
import torch
from helpers.oracle import assert_as_accurate, value_and_gradients
from torch.nn import functional

from hyperloader import ops

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cuda_kernels")]


# rows, terms, outputs of every head
SIZES = {
    "rows of one block, whole accesses": (24, 64, [200, 8]),
    "rows of a tall block": (40, 64, [72, 3]),
    "rows in turn": (150, 64, [136, 5]),
    "terms beyond a block": (33, 72, [70]),
    "rows that end within an access": (70, 13, [65, 9]),
    "more heads than a launch has": (3, 16, [1 + i % 9 for i in range(50)]),
    "outputs shared out": (5, 8, [17_000]),
}
DTYPES = [  # of the parameters, of the results
    (torch.float32, torch.bfloat16),
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float64, torch.float16),
]
# Hundreds of blocks take long on the host, and are the same for every dtype.
CASES = [(size, *dtypes) for size in SIZES for dtypes in DTYPES if size != "outputs shared out" or dtypes == DTYPES[0]]


def in_dtype(dtype):
    def call(function):
        def run(condition, *tensors):
            n = len(tensors) // 2
            return torch.cat([part.double() for part in function(condition, tensors[:n], tensors[n:], dtype)], 1)

        return run

    return call


def plain(condition, weights, biases, dtype):
    wide = torch.float64 if condition.dtype == torch.float64 else torch.float32
    every = zip(weights, biases, strict=True)
    return [functional.linear(condition.to(wide), w.to(wide), b.to(wide)).to(dtype) for w, b in every]


@pytest.mark.parametrize(("size", "parameters", "results"), CASES)
def test_value_and_gradients(size, parameters, results):
    """Two runs are equal to the bit."""
    rows, terms, outputs = SIZES[size]
    condition = torch.randn(rows, terms, dtype=parameters)
    weights = [torch.randn(n, terms, dtype=parameters) / terms**0.5 for n in outputs]
    biases = [torch.randn(n, dtype=parameters) for n in outputs]
    tensors = [condition, *weights, *biases]
    grad = torch.randn(rows, sum(outputs), dtype=torch.float64)
    of_results = in_dtype(results)
    tested = of_results(lambda condition, weights, biases, dtype: ops.generate(condition, weights, biases, dtype=dtype))
    found, again = (value_and_gradients(tested, tensors, grad) for _ in range(2))
    eager = value_and_gradients(of_results(plain), tensors, grad)
    # The gradients of the results have the results' dtype.
    exact = in_dtype(torch.float64)(plain)
    wide = [tensor.double() for tensor in tensors]
    oracle = value_and_gradients(exact, wide, grad.to(results).double())
    for i, (one, other, *rest) in enumerate(zip(found, again, eager, oracle, strict=True)):
        assert torch.equal(one, other), i
        own = [tensor.to(results) if i == 0 else tensor for tensor in (one, rest[0])]
        assert_as_accurate(*own, rest[1], f"result {i}")
