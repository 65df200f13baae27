"""Steps of fused optimizers, which write to parameters without counting the parameters' versions."""

import functools
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


@functools.cache
def count_fused_steps() -> None:
    """Have the versions of parameters count the steps of fused optimizers too, in all of this process: by the versions
    the weight bank notices that it is out of date. Done once, by the first model."""
    register_optimizer_step_post_hook(_count)


def _count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version([p for p in group["params"] if p.grad is not None])
