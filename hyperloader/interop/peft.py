"""LoRA checkpoints of Hugging Face's PEFT as tasks of a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from hyperloader.backbones import Stack, find_stacks
from hyperloader.checkpoints import peft
from hyperloader.config import ADAPTER_SITES, LORA_SITES, HyperLoaderConfig, check_sites
from hyperloader.model import HyperLoaderModel
from hyperloader.nn.linears import Rows, sizes_of
from hyperloader.nn.table import Table


def load_peft(
    backbone: nn.Module, folders: Mapping[str, str | Path], sites: Mapping[str, str | Sequence[str]] | None = None
) -> HyperLoaderModel:
    """A model whose tasks are PEFT LoRA checkpoints, one each. A batch may mix them.

    They are fixed: no parameter requires a gradient until you say so. Nothing of ``backbone`` is changed but what
    ``HyperLoaderModel`` wraps.

    Args:
        backbone: what the checkpoints were trained with.
        folders: name of a task -> folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        sites: of a backbone of no known family, as in ``HyperLoaderConfig``.

    Raises:
        FileNotFoundError, ValueError: a missing or foreign file; one that updates layers that are no sites of LoRA in
            this family of backbones; one that holds more than plain LoRA updates. The message lists what.
    """
    if not isinstance(folders, Mapping):
        raise TypeError(f"folders must map names of tasks to folders, got {folders!r:.80}")
    patterns = None if sites is None else check_sites(sites)
    stacks = find_stacks(backbone, patterns)
    places = [
        (path, site, stack.rows(backbone, number, site))
        for stack in stacks
        for number, layer in enumerate(stack.layers)
        for site, path in layer.items()
        if site not in ADAPTER_SITES
    ]
    sizes = {path: sizes_of(backbone.get_submodule(path)) for path, _, _ in places}
    usual = all(site in LORA_SITES for _, site, _ in places)
    of = f"query or value of {type(backbone).__name__}'s attentions" if usual else f"site of {type(backbone).__name__}"
    read = {task: peft.read(Path(folder), sizes, of) for task, folder in folders.items()}
    if not read:
        raise ValueError("folders must name at least one task, got none")
    rank = max(updates.rank for updates in read.values())
    updated = {site for path, site, rows in places if any(_updates(one, path, rows) for one in read.values())}
    config = HyperLoaderConfig(
        tasks=list(read), adapter_sites=(), lora_sites=tuple(updated), rank=rank, lora_alpha=rank, train_norms=False,
        generator="table", sites=patterns,
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
        for part in table.layout.parts:
            for row, (layer, site) in enumerate(table.layout.sites_of(part)):
                to_A, to_B = (table.weights[head][row, task] for head in part.heads.values())
                to_A.zero_()
                to_B.zero_()
                path = stack.layers[layer][site]
                if path in updates.layers:
                    lora_A, lora_B = updates.layers[path]
                    start, stop = model.site_paths[path].lora[stack.name, layer, site]
                    to_A[: updates.rank].copy_(lora_A)
                    to_B[:, : updates.rank].copy_(lora_B[start:stop].double() * updates.scaling)


def _updates(updates: peft.Updates, path: str, rows: Rows) -> bool:
    """Whether a checkpoint updates the outputs ``rows`` of a layer; one of part of them is zero elsewhere."""
    if path not in updates.layers:
        return False
    lora_B = updates.layers[path][1]
    return rows == (0, len(lora_B)) or bool(lora_B[slice(*rows)].any())
