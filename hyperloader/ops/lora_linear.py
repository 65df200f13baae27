"""Frozen linear layers with a LoRA update."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperloader.ops import native
from hyperloader.ops.backend import backend_in_use, operator, runs_triton


def lora_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    *,
    group: Tensor | None = None,
    scaling: float = 1.0,
) -> Tensor:
    """``y = x · weightᵀ + bias + scaling · (x · lora_Aᵀ) · lora_Bᵀ``, differentiable in every tensor but ``group``.

    Args:
        x: (..., in_features); float32, bfloat16, float16 or float64.
        weight: (out_features, in_features), usually frozen.
        bias: (out_features,) or None.
        lora_A: (rank, in_features).
        lora_B: (out_features, rank).
        group: (batch,) int64, the index of each sentence's update: then ``x`` is (batch, ..., in_features) and
            ``lora_A`` and ``lora_B`` carry a first dimension (groups, ...).
        scaling: factor of the update.

    The weights have the dtype of ``x``, or float32 beside a half-precision ``x``.

    Returns:
        ``y`` (..., out_features) in the dtype of ``x``.

    Raises:
        ValueError, TypeError, IndexError: a shape, a dtype or device, a group index; the message names the argument.

    Source: arXiv 2106.09685 (LoRA).
    """
    return operator("lora_linear")(x, weight, bias, lora_A, lora_B, group, scaling)


def lora_linears(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    *,
    group: Tensor | None = None,
    scaling: float = 1.0,
) -> list[Tensor]:
    """``lora_linear`` with several layers that read the same ``x``, such as an attention's query and value.

        yᵢ = x · weightsᵢᵀ + biasesᵢ + scaling · (x · lora_Aᵢᵀ) · lora_Bᵢᵀ

    Their low-rank products ``x · lora_Aᵢᵀ`` are one product, and the gradient of ``x`` is summed where it is made. On
    the CPU they are folded (see ``explain_lora_linear``) if each of them alone would be.

    Args:
        x: (..., in_features).
        weights: one (out_features_i, in_features) per layer, of one dtype.
        biases: one (out_features_i,) per layer, or None.
        lora_A: one (rank_i, in_features) per layer.
        lora_B: one (out_features_i, rank_i) per layer.
        group: as in ``lora_linear``; every ``lora_A`` and ``lora_B`` then has the same number of groups.
        scaling: factor of every update.

    Returns:
        ``yᵢ`` (..., out_features_i) of every layer, in the dtype of ``x``.

    Raises:
        ValueError, TypeError, IndexError: as ``lora_linear``; the message names the argument and the layer.
    """
    return operator("lora_linears")(x, weights, [] if biases is None else biases, lora_A, lora_B, group, scaling)


def explain_lora_linear(x: Tensor, weight: Tensor, *, group: Tensor | None = None) -> str:
    """Tell how ``lora_linear`` would compute these arguments now.

    Returns:
        ``reference``: in plain PyTorch.
        ``epilogue``: the frozen product by PyTorch's library, the update added into its output.
        ``folded``: the update added to a copy of ``weight``, then one product. Chosen on the CPU for one task with at
        least 1.5 tokens per feature (harmonic mean of in and out), except in half precision.
    """
    if runs_triton(x):
        return "epilogue"
    if backend_in_use() != "native":
        return "reference"
    if x.device.type != "cpu":
        return "epilogue" if x.device.type == "cuda" and native.extension().build_info()["cuda"] else "reference"
    out_features, in_features = weight.shape
    half = x.dtype == weight.dtype and x.dtype in (torch.bfloat16, torch.float16)
    tokens = x.shape[:-1].numel()
    folds = native.extension().lora_folds(tokens, in_features, out_features, group is not None, half)
    return "folded" if folds else "epilogue"
