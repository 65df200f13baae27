"""Autograd of the operators that are registered in Python. The compiled ones have theirs in csrc/<operator>.cpp."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperloader.ops import _reference
from hyperloader.reference.groups import AdapterWeights, LoraNeeded, split


def register(operators: Any) -> None:
    """Register the derivatives of ``operators``, a namespace of ``torch.ops``."""
    _condition(operators)
    _generate(operators)
    _adapter(operators)
    _lora_linears(operators)


def _condition(operators: Any) -> Any:
    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.scales, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    def backward(ctx: Any, grad: Tensor) -> Any:
        found = iter(operators.condition_backward(grad, *ctx.saved_tensors, ctx.scales, ctx.eps))
        return *(next(found) if one.is_floating_point() else None for one in ctx.saved_tensors), None, None

    torch.library.register_autograd(operators.condition.default, backward, setup_context=setup)


def _generate(operators: Any) -> Any:
    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        condition, weights, _, ctx.has_bias, _ = inputs
        ctx.save_for_backward(condition, *weights)

    def backward(ctx: Any, grads: Sequence[Tensor]) -> Any:
        condition, *weights = ctx.saved_tensors
        grad_condition, *found = operators.generate_backward(grads, condition, weights, ctx.has_bias)
        return grad_condition, found[: len(weights)], found[len(weights) :], None, None

    torch.library.register_autograd(operators.generate.default, backward, setup_context=setup)


def _adapter(operators: Any) -> Any:
    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        x, *arguments = inputs
        weights, (ctx.group, *ctx.options) = split(AdapterWeights, arguments)
        ctx.present = [weight is not None for weight in weights]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # else its gradient is made, of zeros
        ctx.save_for_backward(x, output[1], *weights.present())

    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
        without = [None] * (1 + len(ctx.options))  # group and options
        if grad is None:  # of zeros
            return None, *(None for _ in ctx.present), *without
        x, pre, *present = ctx.saved_tensors
        weights = iter(present)
        arguments = [next(weights) if has else None for has in ctx.present] + [ctx.group, *ctx.options]
        if torch.is_grad_enabled():  # a second derivative is wanted: of `pre`, too, which was saved without a graph
            pre = _reference.plain("adapter")(x, *arguments)[1]
        grad_x, *grads = operators.adapter_backward(grad, x, pre, *arguments)
        found = iter(grads)
        return grad_x, *(next(found) if has else None for has in ctx.present), *without

    torch.library.register_autograd(operators.adapter.default, backward, setup_context=setup)


def _lora_linears(operators: Any) -> Any:
    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        x, weights, biases, lora_A, lora_B, ctx.group, ctx.scaling = inputs
        ctx.counts = [len(tensors) for tensors in (weights, biases, lora_A, lora_B)]
        ctx.save_for_backward(x, *weights, *lora_A, *lora_B)

    def backward(ctx: Any, grads: Sequence[Tensor]) -> Any:
        x, *tensors = ctx.saved_tensors
        count = len(grads)
        layers = [tensors[i : i + count] for i in range(0, len(tensors), count)]
        needs_x, *needs_lists, _, _ = ctx.needs_input_grad
        needed = LoraNeeded(needs_x, *(any(flags) for flags in needs_lists))
        found = iter(operators.lora_linears_backward(grads, x, *layers, ctx.group, ctx.scaling, list(needed)))
        grad_x = next(found) if needed.x else None
        lists = [
            [next(found) for _ in range(count)] if needs else [None] * count
            for needs, count in zip(needed[1:], ctx.counts, strict=True)
        ]
        return grad_x, *lists, None, None

    torch.library.register_autograd(operators.lora_linears.default, backward, setup_context=setup)
