"""The reference weight generation's hand-written backward against autograd in float64."""

import torch
from torch.nn import functional

from hyperloader.reference import generate


def test_gradients():
    condition = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(size, 4, dtype=torch.float64, requires_grad=True) for size in (5, 3, 7)]
    biases = [torch.randn(5, dtype=torch.float64, requires_grad=True), None, torch.randn(7, dtype=torch.float64)]
    biases[2].requires_grad_()
    plain = [functional.linear(condition, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    grads = [torch.randn_like(tensor) for tensor in plain]
    expected = torch.autograd.grad(plain, [condition, *weights, biases[0], biases[2]], grads)

    actual = generate.forward(condition, weights, biases, None)
    for one, other in zip(actual, plain, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(generate.backward(grads, condition, weights, [True, False, True]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_dtype_of_the_results():
    results = generate.forward(torch.randn(2, 4), [torch.randn(3, 4)], [None], torch.bfloat16)
    assert [result.dtype for result in results] == [torch.bfloat16]
