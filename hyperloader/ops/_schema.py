"""The operators' schemas, word for word those that csrc/ops.cpp registers, and a library of them in plain PyTorch.

The reference library serves ``use_backend("reference")``. Where the extension is missing it also takes the place of
the native operators, under their names.
"""

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import torch

from hyperloader.ops import _check
from hyperloader.reference import adapter as adapter_reference
from hyperloader.reference import adapter_low_rank
from hyperloader.reference import condition as condition_reference
from hyperloader.reference import generate as generate_reference
from hyperloader.reference import lora_linear as lora_linear_reference
from hyperloader.reference._group import accumulate_dtype

_ADAPTER_WEIGHTS = (
    "Tensor down_weight, Tensor down_bias, Tensor up_weight, Tensor up_bias, Tensor? norm_weight, Tensor? norm_bias, "
    "Tensor? pre_norm_weight, Tensor? pre_norm_bias, Tensor? group, str norm, str activation, float eps"
)
_CONDITION = (
    "Tensor task_embedding, Tensor layer_embedding, Tensor position_embedding, Tensor layers, Tensor positions, "
    "Tensor first_weight, Tensor first_bias, Tensor second_weight, Tensor second_bias, Tensor norm_weight, "
    "Tensor norm_bias, float[] scales, float eps"
)
SCHEMAS = {
    "condition": f"({_CONDITION}) -> Tensor",
    "condition_backward": f"(Tensor grad, {_CONDITION}) -> Tensor[]",
    "generate": (
        "(Tensor condition, Tensor[] weights, Tensor[] biases, bool[] has_bias, ScalarType? dtype) -> Tensor[]"
    ),
    "generate_backward": "(Tensor[] grads, Tensor condition, Tensor[] weights, bool[] has_bias) -> Tensor[]",
    "adapter": f"(Tensor x, {_ADAPTER_WEIGHTS}) -> (Tensor, Tensor)",
    "adapter_backward": f"(Tensor grad, Tensor x, Tensor pre, {_ADAPTER_WEIGHTS}) -> Tensor[]",
    "lora_linear": (
        "(Tensor x, Tensor weight, Tensor? bias, Tensor lora_A, Tensor lora_B, Tensor? group, float scaling) -> Tensor"
    ),
    "lora_linears": (
        "(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] lora_A, Tensor[] lora_B, Tensor? group, float scaling) "
        "-> Tensor[]"
    ),
    "lora_linears_backward": (
        "(Tensor[] grads, Tensor x, Tensor[] weights, Tensor[] lora_A, Tensor[] lora_B, Tensor? group, float scaling, "
        "bool[] needed) -> Tensor[]"
    ),
}


def _adapter(x, *arguments):
    *weights, group, norm, activation, eps = arguments
    if norm == "post":
        return adapter_low_rank.forward(x, *weights[:6], group, activation, eps)
    return adapter_reference.forward(x, *arguments)


def _adapter_backward(grad, x, pre, *arguments):
    *weights, group, norm, activation, eps = arguments
    if norm == "post":
        return adapter_low_rank.backward(grad, x, pre, *weights[:6], group, activation, eps)
    return adapter_reference.backward(grad, x, pre, *arguments)


def checked(condition, generate, adapter, lora_linear) -> dict[str, Callable]:
    """What computes every operator: the ``forward`` and ``backward`` of these, after the checks of the arguments."""

    def run_condition(*arguments):
        _check.condition(*arguments)
        return condition.forward(*arguments)

    def run_generate(rows, weights, biases, has_bias, dtype):
        _check.generate(rows, weights, biases, has_bias, dtype)
        present = iter(biases)
        return generate.forward(rows, weights, [next(present) if has else None for has in has_bias], dtype)

    def run_adapter(*arguments):
        _check.adapter(*arguments)
        return adapter.forward(*arguments)

    def run_lora_linears(x, weights, biases, lora_A, lora_B, group, scaling):
        _check.lora_linears(x, weights, biases, lora_A, lora_B, group)
        return lora_linear.forward(x, weights, biases, lora_A, lora_B, group, scaling)

    return {
        "condition": run_condition,
        "condition_backward": condition.backward,
        "generate": run_generate,
        "generate_backward": generate.backward,
        "adapter": run_adapter,
        "adapter_backward": adapter.backward,
        "lora_linears": run_lora_linears,
        "lora_linears_backward": lora_linear.backward,
    }


REFERENCE = checked(
    condition_reference,
    generate_reference,
    SimpleNamespace(forward=_adapter, backward=_adapter_backward),
    lora_linear_reference,
)


def plain(name: str) -> Callable:
    """Operator ``name`` in operations of PyTorch alone, of which PyTorch knows every derivative."""
    if name == "lora_linear":
        return lora_linear_from(plain("lora_linears"))
    return _without_autocast(REFERENCE[name])


def lora_linear_from(lora_linears: Callable) -> Callable:
    """``lora_linear``, one layer alone, from ``lora_linears``."""

    def lora_linear(x, weight, bias, lora_A, lora_B, group, scaling):
        return lora_linears(x, [weight], [] if bias is None else [bias], [lora_A], [lora_B], group, scaling)[0]

    return lora_linear


def define(namespace: str, kernels: Mapping[str, Callable] = REFERENCE) -> None:
    """Register every operator under ``namespace``, computed by ``kernels``, with autograd."""
    for name, schema in SCHEMAS.items():
        torch.library.define(f"{namespace}::{name}", schema)
    fill(namespace, kernels)
    operators = getattr(torch.ops, namespace)
    torch.library.impl(
        f"{namespace}::lora_linear", "CompositeImplicitAutograd", lora_linear_from(operators.lora_linears)
    )
    if kernels is REFERENCE:  # PyTorch follows its backward operators, and is told so
        for name in SCHEMAS:
            if name.endswith("_backward"):
                torch.library.impl(f"{namespace}::{name}", "Autograd", torch.library.fallthrough_kernel)
    _register_condition(operators)
    _register_generate(operators)
    _register_adapter(operators)
    _register_lora_linears(operators)


def fill(namespace: str, kernels: Mapping[str, Callable] = REFERENCE, key: str = "CompositeExplicitAutograd") -> None:
    """Let ``kernels`` compute the operators of ``namespace``: on every device without kernels of its own, or on one."""
    for name, kernel in kernels.items():
        torch.library.impl(f"{namespace}::{name}", key, _without_autocast(kernel))


def _without_autocast(kernel):
    """The operators choose their dtypes themselves: autocast must not reach the products inside."""

    @functools.wraps(kernel)
    def run(first, *arguments):
        tensor = first if isinstance(first, torch.Tensor) else first[0]
        with torch.autocast(tensor.device.type, enabled=False):
            return kernel(first, *arguments)

    return run


def register_fakes(namespace: str) -> None:
    """Tell the tracer the shapes and dtypes that every operator of ``namespace`` returns."""
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)


def _register_condition(operators):
    def setup(ctx, inputs, output):
        *tensors, ctx.scales, ctx.eps = inputs
        ctx.save_for_backward(*tensors)

    def backward(ctx, grad):
        grads = operators.condition_backward(grad, *ctx.saved_tensors, ctx.scales, ctx.eps)
        return *grads[:3], None, None, *grads[3:], None, None

    torch.library.register_autograd(operators.condition.default, backward, setup_context=setup)


def _register_generate(operators):
    def setup(ctx, inputs, output):
        condition, weights, _, ctx.has_bias, _ = inputs
        ctx.save_for_backward(condition, *weights)

    def backward(ctx, grads):
        condition, *weights = ctx.saved_tensors
        results = operators.generate_backward(grads, condition, weights, ctx.has_bias)
        return results[0], results[1 : 1 + len(weights)], results[1 + len(weights) :], None, None

    torch.library.register_autograd(operators.generate.default, backward, setup_context=setup)


def _register_adapter(operators):
    def setup(ctx, inputs, output):
        x, *weights, ctx.group, ctx.norm, ctx.activation, ctx.eps = inputs
        ctx.present = [weight is not None for weight in weights]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, output[1], *(weight for weight in weights if weight is not None))

    def backward(ctx, grad, _):
        x, pre, *present = ctx.saved_tensors
        weights = iter(present)
        arguments = [next(weights) if has else None for has in ctx.present]
        arguments += [ctx.group, ctx.norm, ctx.activation, ctx.eps]
        if torch.is_grad_enabled():  # a second derivative is wanted: of `pre`, too, which was saved without a graph
            pre = plain("adapter")(x, *arguments)[1]
        grad_x, *grads = operators.adapter_backward(grad, x, pre, *arguments)
        grads = iter(grads)
        return grad_x, *(next(grads) if has else None for has in ctx.present), None, None, None, None

    torch.library.register_autograd(operators.adapter.default, backward, setup_context=setup)


def _register_lora_linears(operators):
    def setup(ctx, inputs, output):
        x, weights, biases, lora_A, lora_B, ctx.group, ctx.scaling = inputs
        ctx.count, ctx.has_bias = len(weights), bool(biases)
        ctx.save_for_backward(x, *weights, *lora_A, *lora_B)

    def backward(ctx, grads):
        x, *tensors = ctx.saved_tensors
        n = ctx.count
        lists = [tensors[i : i + n] for i in range(0, 3 * n, n)]
        needs_x, *needs = ctx.needs_input_grad[:5]
        needed = [needs_x, *(any(flags) for flags in needs)]
        found = iter(operators.lora_linears_backward(grads, x, *lists, ctx.group, ctx.scaling, needed))
        grad_x = next(found) if needs_x else None
        counts = (n, n if ctx.has_bias else 0, n, n)
        by_list = [
            [next(found) for _ in range(count)] if needs else [None] * count
            for needs, count in zip(needed[1:], counts, strict=True)
        ]
        return grad_x, *by_list, None, None

    torch.library.register_autograd(operators.lora_linears.default, backward, setup_context=setup)


def _fake_adapter(x, down_weight, *_):
    wide = accumulate_dtype(x.dtype)
    return _contiguous(x), x.new_empty(*x.shape[:-1], down_weight.shape[-2], dtype=wide)


def _fake_adapter_backward(grad, x, pre, *arguments):
    weights = [weight for weight in arguments[:8] if weight is not None]
    return [_contiguous(tensor) for tensor in (x, *weights)]


def _contiguous(like):
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _fake_condition(task_embedding, layer_embedding, position_embedding, layers, positions, *rest):
    return task_embedding.new_empty(positions.shape[0], layers.shape[0], task_embedding.shape[0], rest[2].shape[0])


def _fake_condition_backward(grad, *arguments):
    return [_contiguous(tensor) for tensor in (*arguments[:3], *arguments[5:11])]


def _fake_generate(condition, weights, biases, has_bias, dtype):
    dtype = condition.dtype if dtype is None else dtype
    return [condition.new_empty(condition.shape[0], weight.shape[0], dtype=dtype) for weight in weights]


def _fake_generate_backward(grads, condition, weights, has_bias):
    wide = accumulate_dtype(condition.dtype)
    biases = [w.new_empty(w.shape[0], dtype=wide) for w, has in zip(weights, has_bias, strict=True) if has]
    return [_contiguous(condition), *(_contiguous(weight) for weight in weights), *biases]


def _fake_lora_linears(x, weights, *_):
    return [x.new_empty(*x.shape[:-1], weight.shape[0]) for weight in weights]


def _fake_lora_linears_backward(grads, x, weights, lora_A, lora_B, group, scaling, needed):
    wide = accumulate_dtype(x.dtype)
    biases = [weight.new_empty(weight.shape[0], dtype=wide) for weight in weights]
    lists = zip(([x], weights, biases, lora_A, lora_B), needed, strict=True)
    return [_contiguous(tensor) for tensors, needs in lists if needs for tensor in tensors]


_FAKES = {
    "condition": _fake_condition,
    "condition_backward": _fake_condition_backward,
    "generate": _fake_generate,
    "generate_backward": _fake_generate_backward,
    "adapter": _fake_adapter,
    "adapter_backward": _fake_adapter_backward,
    "lora_linears": _fake_lora_linears,
    "lora_linears_backward": _fake_lora_linears_backward,
}
