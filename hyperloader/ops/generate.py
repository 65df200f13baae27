"""Weight generation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperloader.ops.backend import operator


def generate(
    condition: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Apply every head of a hypernetwork to the same conditions: ``out[i] = condition · weights[i]ᵀ + biases[i]``.

    Args:
        condition: (rows, condition_dim), one row per task, layer and position.
        weights: one (n_i, condition_dim) per head.
        biases: one (n_i,) or None per head.
        dtype: of the results; that of ``condition`` if None.

    Returns:
        One tensor (rows, n_i) per head. Differentiable in ``condition``, ``weights`` and ``biases``.

    Raises:
        ValueError, TypeError: a shape, a dtype or device; the message names the argument.

    Source: arXiv 2407.01411, section 3.
    """
    present = [bias for bias in biases if bias is not None]  # a list with gaps cannot be differentiated
    return operator("generate")(condition, weights, present, [bias is not None for bias in biases], dtype)
