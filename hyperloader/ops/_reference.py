"""The operators in plain PyTorch, after the checks of their arguments: the backend ``reference``."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hyperloader.ops import _check
from hyperloader.reference import adapter as adapter_reference
from hyperloader.reference import adapter_low_rank
from hyperloader.reference import condition as condition_reference
from hyperloader.reference import generate as generate_reference
from hyperloader.reference import lora_linear as lora_linear_reference
from hyperloader.reference.groups import AdapterWeights, ConditionWeights, LoraNeeded, split


def _adapter(x: Tensor, weights: AdapterWeights, group: Any, norm: str, *options: Any) -> Any:
    if norm == "post":
        return adapter_low_rank.forward(x, weights, group, *options)
    return adapter_reference.forward(x, weights, group, norm, *options)


def _adapter_backward(
    grad: Tensor, x: Tensor, pre: Tensor, weights: AdapterWeights, group: Any, norm: str, *options: Any
) -> Any:
    if norm == "post":
        return adapter_low_rank.backward(grad, x, pre, weights, group, *options)
    return adapter_reference.backward(grad, x, pre, weights, group, norm, *options)


def checked(condition: Any, generate: Any, adapter: Any, lora_linear: Any) -> dict[str, Callable]:
    """What computes every operator: the ``forward`` and ``backward`` of these, after the checks of the arguments.

    PyTorch passes the arguments one by one, in the order of the schema; here they become the groups that they are.
    """

    def run_condition(*arguments: Any) -> Any:
        weights, options = split(ConditionWeights, arguments)
        _check.condition(weights, *options)
        return condition.forward(weights, *options)

    def run_condition_backward(grad: Tensor, *arguments: Any) -> Any:
        weights, options = split(ConditionWeights, arguments)
        return condition.backward(grad, weights, *options)

    def run_generate(*arguments: Any) -> Any:
        _check.generate(*arguments)
        rows, weights, biases, has_bias, dtype = arguments
        present = iter(biases)
        return generate.forward(rows, weights, [next(present) if has else None for has in has_bias], dtype)

    def run_adapter(x: Tensor, *arguments: Any) -> Any:
        weights, options = split(AdapterWeights, arguments)
        _check.adapter(x, weights, *options)
        return adapter.forward(x, weights, *options)

    def run_adapter_backward(grad: Tensor, x: Tensor, pre: Tensor, *arguments: Any) -> Any:
        weights, options = split(AdapterWeights, arguments)
        return adapter.backward(grad, x, pre, weights, *options)

    def run_lora_linears(*arguments: Any) -> Any:
        _check.lora_linears(*arguments)
        return lora_linear.forward(*arguments)

    def run_lora_linears_backward(*arguments: Any) -> Any:
        *others, needed = arguments
        return lora_linear.backward(*others, LoraNeeded(*needed))

    return {
        "condition": run_condition,
        "condition_backward": run_condition_backward,
        "generate": run_generate,
        "generate_backward": generate.backward,
        "adapter": run_adapter,
        "adapter_backward": run_adapter_backward,
        "lora_linears": run_lora_linears,
        "lora_linears_backward": run_lora_linears_backward,
    }


REFERENCE = checked(
    condition_reference,
    generate_reference,
    SimpleNamespace(forward=_adapter, backward=_adapter_backward),
    lora_linear_reference,
)


def plain(name: str) -> Callable:
    """Operator ``name`` in operations of PyTorch alone, so that PyTorch knows every derivative."""
    if name == "lora_linear":
        return lora_linear_from(plain("lora_linears"))
    return without_autocast(REFERENCE[name])


def lora_linear_from(lora_linears: Callable) -> Callable:
    """``lora_linear``, one layer alone, from ``lora_linears``."""

    def lora_linear(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, *others: Any) -> Any:
        return lora_linears(x, [weight], [] if bias is None else [bias], [A], [B], *others)[0]

    return lora_linear


def without_autocast(kernel: Callable) -> Callable:
    """The operators choose their dtypes themselves: autocast must not reach the products inside."""

    @functools.wraps(kernel)
    def run(first: Any, *arguments: Any) -> Any:
        tensor = first if isinstance(first, torch.Tensor) else first[0]
        with torch.autocast(tensor.device.type, enabled=False):
            return kernel(first, *arguments)

    return run
