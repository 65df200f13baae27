"""Replacing a backbone's wrapped layers by layers with one task's weights, and undoing it."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hyperloader.config import NAME, HyperLoaderConfig
from hyperloader.model.attachment import replace
from hyperloader.nn.fused_projection import joined
from hyperloader.nn.layout import LayerSites, SiteTensors
from hyperloader.nn.linears import Rows, sizes_of, weight_of
from hyperloader.nn.quantized import as_linear, quantization_of, quantized_layers
from hyperloader.nn.sites import AdaptedLinear, FrozenLinear, UpdatedLinear, frozen, unwrapped
from hyperloader.nn.stacked import Sites


def config_of_task(config: HyperLoaderConfig, task: str) -> HyperLoaderConfig:
    """The configuration of a model of ``task`` alone, whose weights are parameters."""
    own: dict[str, Any] = {}
    for name in ("labels", "kinds", "units"):
        of_all = getattr(config, name)
        own[name] = {task: of_all[task]} if of_all and task in of_all else None
    words: dict[str, Any] = {"task_condition": NAME, "descriptions": None, "label_words": None}
    table: dict[str, Any] = {"generator": "table", "base_weights": False, "sparse_gradients": False}
    return dataclasses.replace(config, tasks=(task,), **table, **words, **own)


def fold_in(
    backbone: nn.Module, site_paths: Mapping[str, LayerSites], weights: Sites, config: HyperLoaderConfig
) -> dict[str, nn.Module]:
    """Put one task's weights in the place of the wrapped layers; the update of a quantised layer stays beside it.

    Args:
        backbone: as attached.
        site_paths: path of every wrapped layer -> its keys in ``weights``.
        weights: what was generated for the task.
        config: says what adapters are, and the scaling of LoRA.

    Returns:
        the wrapped layers by path, for ``take_out``.
    """
    wrapped = {path: backbone.get_submodule(path) for path in site_paths}
    merged: dict[str, nn.Module] = {}
    for path, sites in site_paths.items():
        linear = unwrapped(wrapped[path])
        merged[path] = frozen(linear)
        updates = [(weights[key], rows) for key, rows in sites.lora.items()]
        if updates and quantization_of(linear) is None:
            merged[path] = _folded(linear, updates, config)
        elif updates:
            update = joined(updates, sizes_of(linear)[1])
            merged[path] = UpdatedLinear(merged[path], *update, config.scaling)
        if sites.adapter is not None:
            merged[path] = AdaptedLinear(merged[path], weights[sites.adapter], config)
    for path, module in merged.items():
        replace(backbone, path, module.train(backbone.training))
    return wrapped


def take_out(backbone: nn.Module, wrapped: Mapping[str, nn.Module]) -> None:
    """Undo ``fold_in``; if the backbone was cast or is on another device meanwhile, so are the layers."""
    for path, site in wrapped.items():
        now: Any = backbone.get_submodule(path).weight
        dtype = now.dtype if now.is_floating_point() else None
        replace(backbone, path, site.to(now.device, dtype).train(backbone.training))


@torch.no_grad()
def _folded(linear: nn.Module, updates: Sequence[tuple[SiteTensors, Rows]], config: HyperLoaderConfig) -> nn.Module:
    """A copy with weight + scaling · lora_B lora_A at the outputs of every update, summed in float32 at least."""
    folded = copy.deepcopy(linear)
    weight = weight_of(folded)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    for (lora_A, lora_B), (start, stop) in updates:
        update = config.scaling * (lora_B.to(dtype) @ lora_A.to(dtype))
        weight[start:stop] = weight[start:stop].to(dtype) + update
    return folded


def dequantize(backbone: nn.Module) -> None:
    """Give ``backbone`` plain layers in the place of its quantised ones; sites stay."""
    for path, layer in list(quantized_layers(backbone)):
        parent = path.rpartition(".")[0]
        within = isinstance(backbone.get_submodule(parent), FrozenLinear)
        replace(backbone, parent if within else path, as_linear(layer))
