"""Checks of the arguments of the operators in plain PyTorch and in Triton, which need no extension.

The native operators make the same checks, in the same words, in csrc/<operator>.cpp; tests/ops/test_checks.py compares
the two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperloader.config import ACTIVATIONS, NORMS
from hyperloader.ops._modes import values_on_host
from hyperloader.reference.groups import AdapterWeights, ConditionWeights

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_HALVES = (torch.bfloat16, torch.float16)


def condition(weights: ConditionWeights, scales: Sequence[float], eps: float) -> None:
    """Check the arguments of ``condition``."""
    task = weights.task_embedding
    if task.ndim != 2:
        raise ValueError(f"task_embedding must have 2 dimensions, got {task.ndim}")
    _check_float("task_embedding", task)
    size = task.shape[1]
    _check_columns("layer_embedding", weights.layer_embedding, "any", size, task)
    _check_columns("position_embedding", weights.position_embedding, "any", size, task)
    _check_columns("first_weight", weights.first_weight, "hidden", 3 * size, task)
    hidden = weights.first_weight.shape[0]
    _check_tensor("first_bias", weights.first_bias, (hidden,), task)
    _check_columns("second_weight", weights.second_weight, "condition_dim", hidden, task)
    for name in ("second_bias", "norm_weight", "norm_bias"):
        _check_tensor(name, getattr(weights, name), (weights.second_weight.shape[0],), task)
    if len(scales) != 3:
        raise ValueError(f"scales must have 3 entries, got {len(scales)}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    _check_index("layers", weights.layers, weights.layer_embedding)
    _check_index("positions", weights.positions, weights.position_embedding)


def generate(
    condition: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    has_bias: Sequence[bool],
    dtype: torch.dtype | None,
) -> None:
    """Check the arguments of ``generate``."""
    if condition.ndim != 2:
        raise ValueError(f"condition must have 2 dimensions, got {condition.ndim}")
    _check_float("condition", condition)
    if dtype is not None and dtype not in _FLOATS:
        raise TypeError(f"dtype must be a floating dtype, got {dtype}")
    if len(has_bias) != len(weights):
        raise ValueError(f"biases must have one entry per weight ({len(weights)}), got {len(has_bias)}")
    if len(biases) != sum(has_bias):
        raise ValueError(f"biases must have one entry per true has_bias ({sum(has_bias)}), got {len(biases)}")
    present = iter(biases)
    for i, (weight, has) in enumerate(zip(weights, has_bias, strict=True)):
        _check_columns(f"weights[{i}]", weight, "n", condition.shape[1], condition)
        if has:
            _check_tensor(f"biases[{i}]", next(present), (weight.shape[0],), condition)


def adapter(x: Tensor, weights: AdapterWeights, group: Tensor | None, norm: str, activation: str, eps: float) -> None:
    """Check the arguments of ``adapter``."""
    _check_choice("norm", norm, NORMS)
    _check_choice("activation", activation, ACTIVATIONS)
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, got {eps}")
    _check_x(x, group)
    groups = _groups("down_weight", weights.down_weight, 2, group)
    hidden, bottleneck = x.shape[-1], weights.down_weight.shape[-2]
    if hidden < 1:
        raise ValueError("x must have at least one hidden unit, got 0")
    if bottleneck < 1:
        raise ValueError("down_weight must have at least one bottleneck unit, got 0")
    _check_tensor("down_weight", weights.down_weight, (*groups, bottleneck, hidden), x)
    _check_tensor("down_bias", weights.down_bias, (*groups, bottleneck), x)
    _check_tensor("up_weight", weights.up_weight, (*groups, hidden, bottleneck), x)
    _check_tensor("up_bias", weights.up_bias, (*groups, hidden), x)
    for name in ("norm_weight", "norm_bias", "pre_norm_weight", "pre_norm_bias"):
        tensor, wanted = getattr(weights, name), norm == "both" if name.startswith("pre_") else norm != "none"
        if (tensor is not None) != wanted:
            state = "given" if wanted else "None"
            raise ValueError(f"{name} must be {state} for norm {norm!r}, got {'None' if wanted else 'a tensor'}")
        if tensor is not None:
            _check_tensor(name, tensor, (*groups, hidden), x)
    _check_group(group, groups, x)


def lora_linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    group: Tensor | None,
    scaling: float,
) -> None:
    """Check the arguments of ``lora_linears``; one layer's are named without an index, as ``lora_linear`` does."""
    _check_x(x, group)
    if not weights:
        raise ValueError("weights must have at least one entry, got 0")
    for name, tensors in (("biases", biases or weights), ("lora_A", lora_A), ("lora_B", lora_B)):
        if len(tensors) != len(weights):
            raise ValueError(f"{name} must have one entry per weight ({len(weights)}), got {len(tensors)}")
    in_features = x.shape[-1]
    groups: tuple[int, ...] = ()
    for i, (weight, down, up) in enumerate(zip(weights, lora_A, lora_B, strict=True)):
        one = len(weights) == 1
        index = "" if one else f"[{i}]"
        name = "weight" if one else f"weights{index}"
        _check_columns(name, weight, "out_features", in_features, x)
        if weight.dtype != weights[0].dtype:
            raise TypeError(f"{name} must be {weights[0].dtype} like weights[0], got {weight.dtype}")
        out_features = weight.shape[0]
        if biases:
            _check_tensor("bias" if one else f"biases{index}", biases[i], (out_features,), x)
        found = _groups(f"lora_A{index}", down, 2, group)
        groups = groups or found
        rank = down.shape[-2]
        if rank < 1:
            raise ValueError(f"lora_A{index} must have at least rank 1, got rank 0")
        _check_tensor(f"lora_A{index}", down, (*groups, rank, in_features), x)
        _check_tensor(f"lora_B{index}", up, (*groups, out_features, rank), x)
    _check_group(group, groups, x)


def _check_x(x: Tensor, group: Tensor | None) -> None:
    least = 1 if group is None else 2
    if x.ndim < least:
        raise ValueError(f"x must have at least {least} dimensions, got {x.ndim}")
    _check_float("x", x)


def _groups(name: str, weight: Tensor, ndim: int, group: Tensor | None) -> tuple[int, ...]:
    """The leading shape of every weight: () for one set, (groups,) for stacked ones."""
    wanted = ndim if group is None else ndim + 1
    if weight.ndim != wanted:
        raise ValueError(f"{name} must have {wanted} dimensions, got {weight.ndim}")
    return () if group is None else (weight.shape[0],)


def _check_group(group: Tensor | None, groups: tuple[int, ...], x: Tensor) -> None:
    if group is None:
        return
    if group.shape != x.shape[:1]:
        raise ValueError(f"group must have shape ({x.shape[0]},), got {tuple(group.shape)}")
    _check_indices("group", group, groups[0], x)


def _check_index(name: str, index: Tensor, embedding: Tensor) -> None:
    """``index`` (any,) names rows of ``embedding``."""
    if index.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension, got {index.ndim}")
    _check_indices(name, index, embedding.shape[0], embedding)


def _check_indices(name: str, index: Tensor, count: int, like: Tensor) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"{name} must be torch.int64, got {index.dtype}")
    if index.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {index.device}")
    if values_on_host(index) and index.numel():
        low, high = index.aminmax()
        if low < 0 or high >= count:
            wrong = index[(index < 0) | (index >= count)]
            raise IndexError(f"{name} must be from 0 to {count - 1}, got {int(wrong[0])}")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_float(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _FLOATS:
        raise TypeError(f"{name} must be a floating tensor, got {tensor.dtype}")


def _check_dtype(name: str, tensor: Tensor, like: Tensor) -> None:
    """``tensor`` has the dtype of ``like``, or is float32 beside a half-precision one."""
    if tensor.dtype != like.dtype and not (tensor.dtype == torch.float32 and like.dtype in _HALVES):
        raise TypeError(f"{name} must be {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {tensor.device}")


def _check_columns(name: str, matrix: Tensor, rows: str, columns: int, like: Tensor) -> None:
    """``matrix`` is (any, columns); messages call the number of its rows ``rows``."""
    if matrix.ndim != 2 or matrix.shape[1] != columns:
        raise ValueError(f"{name} must have shape ({rows}, {columns}), got {tuple(matrix.shape)}")
    _check_dtype(name, matrix, like)


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    _check_dtype(name, tensor, like)
