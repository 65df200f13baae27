"""An operator and its plain formula as two functions of the same tensors, and their comparison."""

import torch
from helpers.cases import WEIGHTS, plain_adapter, plain_lora_linear
from helpers.oracle import assert_as_accurate, value_and_gradients

from hyperloader import ops


def compare(tested, plain, inputs, names, rounding_factor=1):
    """Compare values and gradients: ``tested`` and ``plain`` in the inputs' dtypes, ``plain`` in float64."""
    grad = torch.randn_like(plain(*inputs).detach())
    actual = value_and_gradients(tested, inputs, grad)
    eager = value_and_gradients(plain, inputs, grad)
    oracle = value_and_gradients(plain, [tensor.double() for tensor in inputs], grad)
    for name, *triple in zip(("value", *names), actual, eager, oracle, strict=True):
        assert_as_accurate(*triple, name, rounding_factor)


def adapter_pair(inputs, **options):
    """The operator and the formula as functions of the tensors that have gradients, and those tensors' names."""
    names = [name for name in inputs if name != "group"]
    options["group"] = inputs.get("group")

    def tested(*tensors):
        return ops.adapter(**dict(zip(names, tensors, strict=True)), **options)

    def plain(*tensors):
        # PyTorch's own in the dtype of x, whatever the dtype of the weights
        by_name = {name: tensor.to(tensors[0].dtype) for name, tensor in zip(names, tensors, strict=True)}
        weights = [by_name.get(name) for name in WEIGHTS]
        return plain_adapter(by_name["x"], *weights, **options)

    return tested, plain, [inputs[name] for name in names], names


def lora_pair(inputs, scaling):
    names = [name for name in inputs if name != "group"]
    group = inputs.get("group")

    def tested(*tensors):
        by_name = dict(zip(names, tensors, strict=True))
        return ops.lora_linear(**{"bias": None, **by_name}, group=group, scaling=scaling)

    def plain(*tensors):
        by_name = {name: tensor.to(tensors[0].dtype) for name, tensor in zip(names, tensors, strict=True)}
        return plain_lora_linear(**{"bias": None, **by_name}, group=group, scaling=scaling)

    return tested, plain, [inputs[name] for name in names], names


def assert_accurate_where_columns_cancel(inputs, spread):
    """Assert that the result of an adapter whose norm reads sums that are small beside their terms is as good as
    PyTorch's, and that its gradients, sums of such products, lose a digit more than PyTorch's, not four."""
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
