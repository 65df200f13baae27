"""LoRA updates of slices of one layer, such as query and value of a fused projection, as one update of all of it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hyperloader.nn.linears import Rows


def joined(updates: Sequence[tuple[tuple[Tensor, ...], Rows]], out_features: int) -> tuple[Tensor, Tensor]:
    """``lora_A`` (..., sum of ranks, in_features) and ``lora_B`` (..., out_features, sum of ranks) of one update that
    does, exactly, what ``updates`` do.

        lora_A = [A₁; A₂; ...]      lora_B = zero but for Bᵢ at the outputs and the ranks of update i

    Args:
        updates: ``lora_A`` (..., rank, in_features), ``lora_B`` (..., rows, rank), and the outputs that they update.
        out_features: of the layer.
    """
    if len(updates) == 1 and updates[0][1] == (0, out_features):
        lora_A, lora_B = updates[0][0]
        return lora_A, lora_B
    ranks = [lora_A.shape[-2] for (lora_A, _), _ in updates]
    widened = []
    for number, ((_, lora_B), (start, stop)) in enumerate(updates):
        sides = (sum(ranks[:number]), sum(ranks[number + 1 :]), start, out_features - stop)
        widened.append(functional.pad(lora_B, sides))
    total = widened[0]
    for one in widened[1:]:
        total = total + one
    return torch.cat([lora_A for (lora_A, _), _ in updates], -2), total
