"""Replacing a backbone's wrapped layers by layers with one task's weights, and undoing it."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from hyperloader.config import ADAPTER_SITES, HyperLoaderConfig
from hyperloader.model.attachment import replace
from hyperloader.nn.layout import SiteKey
from hyperloader.nn.sites import AdaptedLinear, Site
from hyperloader.nn.stacked import Sites


def config_of_task(config: HyperLoaderConfig, task: str) -> HyperLoaderConfig:
    """The configuration of a model of ``task`` alone, whose weights are parameters."""
    own: dict[str, Any] = {}
    for name in ("labels", "kinds", "units"):
        of_all = getattr(config, name)
        own[name] = {task: of_all[task]} if of_all and task in of_all else None
    return dataclasses.replace(config, tasks=(task,), generator="table", base_weights=False, **own)


def fold_in(
    backbone: nn.Module, site_paths: Mapping[str, SiteKey], weights: Sites, config: HyperLoaderConfig
) -> dict[str, nn.Module]:
    """Put one task's weights in the place of the wrapped layers.

    Args:
        backbone: as attached.
        site_paths: path of every wrapped layer -> its key in ``weights``.
        weights: what was generated for the task.
        config: says what adapters are, and the scaling of LoRA.

    Returns:
        the wrapped layers by path, for ``take_out``.
    """
    wrapped = {path: backbone.get_submodule(path) for path in site_paths}
    merged: dict[str, nn.Module] = {}
    for path, key in site_paths.items():
        linear = cast(Site, wrapped[path]).linear
        if key[2] in ADAPTER_SITES:
            merged[path] = AdaptedLinear(linear, weights[key], config)
        else:
            lora_A, lora_B = weights[key]
            merged[path] = _folded(linear, lora_A, lora_B, config.scaling)
    for path, module in merged.items():
        replace(backbone, path, module.train(backbone.training))
    return wrapped


def take_out(backbone: nn.Module, wrapped: Mapping[str, nn.Module]) -> None:
    """Undo ``fold_in``; if the backbone was cast or is on another device meanwhile, so are the layers."""
    for path, site in wrapped.items():
        now: Any = backbone.get_submodule(path).weight
        replace(backbone, path, site.to(now.device, now.dtype).train(backbone.training))


@torch.no_grad()
def _folded(linear: nn.Linear, lora_A: Tensor, lora_B: Tensor, scaling: float) -> nn.Linear:
    """A copy with weight + scaling · lora_B lora_A, summed in float32 at least."""
    folded = copy.deepcopy(linear)
    dtype = torch.promote_types(linear.weight.dtype, torch.float32)
    update = scaling * (lora_B.to(dtype) @ lora_A.to(dtype))
    folded.weight.copy_(linear.weight.to(dtype) + update)
    return folded
