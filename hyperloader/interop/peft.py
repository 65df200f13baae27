"""LoRA checkpoints of Hugging Face's PEFT as tasks of a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from hyperloader.backbones import Stack, find_stacks
from hyperloader.checkpoints import peft
from hyperloader.config import LORA_SITES, HyperLoaderConfig
from hyperloader.model import HyperLoaderModel
from hyperloader.nn.table import Table


def load_peft(backbone: nn.Module, folders: Mapping[str, str | Path]) -> HyperLoaderModel:
    """A model whose tasks are PEFT LoRA checkpoints, one each. A batch may mix them.

    They are fixed: no parameter requires a gradient until you say so. Nothing of ``backbone`` is changed but what
    ``HyperLoaderModel`` wraps.

    Args:
        backbone: what the checkpoints were trained with.
        folders: name of a task -> folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        FileNotFoundError, ValueError: a missing or foreign file; one that updates other layers than the queries and
            values of attentions; one that holds more than plain LoRA updates. The message lists what.
    """
    if not isinstance(folders, Mapping):
        raise TypeError(f"folders must map names of tasks to folders, got {folders!r:.80}")
    stacks = find_stacks(backbone)
    known = {path: site for stack in stacks for layer in stack.layers for site, path in layer.items()}
    linears: dict[str, Any] = {path: backbone.get_submodule(path) for path, site in known.items() if site in LORA_SITES}
    sizes = {path: (linear.in_features, linear.out_features) for path, linear in linears.items()}
    of = f"query or value of {type(backbone).__name__}'s attentions"
    read = {task: peft.read(Path(folder), sizes, of) for task, folder in folders.items()}
    if not read:
        raise ValueError("folders must name at least one task, got none")
    rank = max(updates.rank for updates in read.values())
    sites = {known[path] for updates in read.values() for path in updates.layers}
    config = HyperLoaderConfig(
        tasks=list(read), adapter_sites=(), lora_sites=tuple(sites), rank=rank, lora_alpha=rank, train_norms=False,
        generator="table",
    )  # fmt: skip
    model = HyperLoaderModel(backbone, config)
    try:
        with torch.no_grad():
            for index, updates in enumerate(read.values()):
                _fill(model, stacks, index, updates)
    except BaseException:  # whatever it is: the backbone is given back
        model.detach()
        raise
    return model.requires_grad_(False).eval()


def _fill(model: HyperLoaderModel, stacks: list[Stack], task: int, updates: peft.Updates) -> None:
    """Copy a checkpoint into the tables; a layer that it does not update gets zeros."""
    for stack in stacks:
        table = cast(Table, model.generators[stack.name])
        for row, (layer, site) in enumerate(table.layout.sites_of(table.layout.lora_sites)):
            to_A, to_B = (table.weights[name][row, task] for name in ("lora_A", "lora_B"))
            to_A.zero_()
            to_B.zero_()
            found = updates.layers.get(stack.layers[layer][site])
            if found is not None:
                to_A[: updates.rank].copy_(found[0])
                to_B[:, : updates.rank].copy_(found[1].double() * updates.scaling)
