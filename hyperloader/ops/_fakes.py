"""The shapes and dtypes that every operator returns, for the tracer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperloader.reference.batches import accumulate_dtype
from hyperloader.reference.groups import AdapterWeights, ConditionWeights, LoraNeeded, split


def register(namespace: str) -> None:
    """Tell the tracer what every operator of ``namespace`` returns."""
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{namespace}::{name}", fake)


def _contiguous(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _condition(*arguments: Any) -> Any:
    weights, _ = split(ConditionWeights, arguments)
    shape = (weights.positions, weights.layers, weights.task_embedding, weights.norm_weight)
    return weights.task_embedding.new_empty([tensor.shape[0] for tensor in shape])


def _condition_backward(grad: Tensor, *arguments: Any) -> Any:
    weights, _ = split(ConditionWeights, arguments)
    return [_contiguous(tensor) for tensor in (*weights.embeddings(), *weights.parameters())]


def _generate(condition: Tensor, weights: Sequence[Tensor], biases: Any, has_bias: Any, dtype: Any) -> Any:
    dtype = condition.dtype if dtype is None else dtype
    return [condition.new_empty(condition.shape[0], weight.shape[0], dtype=dtype) for weight in weights]


def _generate_backward(grads: Any, condition: Tensor, weights: Sequence[Tensor], has_bias: Sequence[bool]) -> Any:
    sums = accumulate_dtype(condition.dtype)
    biases = [w.new_empty(w.shape[0], dtype=sums) for w, has in zip(weights, has_bias, strict=True) if has]
    return [_contiguous(condition), *(_contiguous(weight) for weight in weights), *biases]


def _adapter(x: Tensor, *arguments: Any) -> Any:
    weights, _ = split(AdapterWeights, arguments)
    pre = x.new_empty(*x.shape[:-1], weights.down_weight.shape[-2], dtype=accumulate_dtype(x.dtype))
    return _contiguous(x), pre


def _adapter_backward(grad: Tensor, x: Tensor, pre: Tensor, *arguments: Any) -> Any:
    weights, _ = split(AdapterWeights, arguments)
    return [_contiguous(tensor) for tensor in (x, *weights.present())]


def _lora_linears(x: Tensor, weights: Sequence[Tensor], *_: Any) -> Any:
    return [x.new_empty(*x.shape[:-1], weight.shape[0]) for weight in weights]


def _lora_linears_backward(
    grads: Any, x: Tensor, weights: Sequence[Tensor], lora_A: Any, lora_B: Any, group: Any, scaling: float, needed: Any
) -> Any:
    sums = accumulate_dtype(x.dtype)
    biases = [weight.new_empty(weight.shape[0], dtype=sums) for weight in weights]
    gradients = zip(LoraNeeded(*needed), ([x], weights, biases, lora_A, lora_B), strict=True)
    return [_contiguous(tensor) for needs, tensors in gradients if needs for tensor in tensors]


_FAKES: dict[str, Callable[..., Any]] = {
    "condition": _condition,
    "condition_backward": _condition_backward,
    "generate": _generate,
    "generate_backward": _generate_backward,
    "adapter": _adapter,
    "adapter_backward": _adapter_backward,
    "lora_linears": _lora_linears,
    "lora_linears_backward": _lora_linears_backward,
}
