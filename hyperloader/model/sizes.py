"""What a model has beside its backbone, and how large that will be, before any memory is taken."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.checkpoints.descriptions import TENSORS
from hyperloader.checkpoints.stored_model import DESCRIPTION, StoredModel
from hyperloader.checkpoints.tensors import check_shapes
from hyperloader.config import HyperLoaderConfig
from hyperloader.model.attachment import layouts_of
from hyperloader.model.text_encoder import text_width
from hyperloader.nn.described import DescribedEmbedding, DescribedHeads, text_buffers
from hyperloader.nn.heads import TaskHeads, head_dropout, hidden_size, task_heads
from hyperloader.nn.hypernetwork import hypernetworks
from hyperloader.nn.layout import Layout
from hyperloader.nn.packed_heads import PackedHeads
from hyperloader.nn.table import Table
from hyperloader.nn.task_embedding import TaskEmbedding
from hyperloader.validation import naming

_BYTES = 4  # what is trained is float32


def new_parts(backbone: nn.Module, config: HyperLoaderConfig, layouts: Mapping[str, Layout]) -> dict[str, nn.Module]:
    """What a new model has beside its backbone: ``task_embedding``, unless its weights are tables, ``generators`` and,
    with ``config.labels``, ``heads``."""
    parts: dict[str, nn.Module] = {}
    if config.generator == "table":
        parts["generators"] = nn.ModuleDict({name: Table(config, layout) for name, layout in layouts.items()})
    else:
        parts["task_embedding"] = _task_embedding(backbone, config)
        parts["generators"] = nn.ModuleDict(hypernetworks(config, layouts))
    if config.labels is not None:
        parts["heads"] = _heads(backbone, config, config.labels)
    return parts


def _task_embedding(backbone: nn.Module, config: HyperLoaderConfig) -> TaskEmbedding:
    if config.descriptions is None:
        return TaskEmbedding(len(config.tasks), config.task_embedding_dim, config.sparse_gradients)
    phrasings = [len(config.descriptions[task]) for task in config.tasks]
    return DescribedEmbedding(phrasings, config.task_embedding_dim, text_width(backbone, config), config.row_dropout)


def _heads(backbone: Any, config: HyperLoaderConfig, labels: Mapping[str, Sequence[str]]) -> TaskHeads:
    if config.descriptions is None:
        return task_heads(backbone, labels, config.kinds, PackedHeads if config.sparse_gradients else TaskHeads)
    sizes = hidden_size(backbone), labels, head_dropout(backbone.config), config.kinds
    return DescribedHeads(*sizes, text_width(backbone, config), config.row_dropout)


def tensors_of(backbone: nn.Module, config: HyperLoaderConfig, layouts: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Name and shape of every stored tensor but the backbone's norms, on ``meta``; no initial value is needed.

    Raises:
        ValueError: sizes that no tensor can have.
    """
    labels = config.labels
    without: dict[str, Any] = dict.fromkeys(("labels", "kinds", "units", "label_words"))
    config = dataclasses.replace(config, **without, init="published", sparse_gradients=False)
    try:
        with torch.device("meta"):
            parts = nn.ModuleDict(new_parts(backbone, config, layouts))
            heads = {} if labels is None else _head_tensors(backbone, config, labels)
    except (RuntimeError, OverflowError) as error:  # beyond what 64 bits count
        raise ValueError("config must describe tensors of fewer than 2**63 numbers, got more") from error
    return dict(parts.named_parameters()) | text_buffers(parts) | heads


def _head_tensors(
    backbone: nn.Module, config: HyperLoaderConfig, labels: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Those of ``heads``: one head is made for each number of labels, as ten thousand would take seconds."""
    sizes = sorted({len(names) for names in labels.values()})
    heads = _heads(backbone, config, {str(size): [""] * size for size in sizes})
    made = {size: list(head.named_parameters()) for size, head in zip(sizes, heads.heads, strict=True)}
    tensors: dict[str, Tensor] = {
        name: tensor for name, tensor in heads.named_parameters() if not name.startswith("heads.")
    }
    for task, names in enumerate(labels.values()):
        tensors |= {f"heads.{task}.{name}": tensor for name, tensor in made[len(names)]}
    if isinstance(heads, DescribedHeads):
        tensors["texts"] = heads.texts.new_empty(sum(map(len, labels.values())), heads.texts.shape[1])
    return {f"heads.{name}": tensor for name, tensor in tensors.items()}


def check_stored(stored: StoredModel, backbone: nn.Module) -> None:
    """Raise ``ValueError`` unless the tensors of a checkpoint are those that its config describes, but for the
    backbone's norms."""
    with naming(stored.folder / DESCRIPTION):
        wanted = tensors_of(backbone, stored.config, layouts_of(backbone, stored.config))
    found = {name: tensor for name, tensor in stored.tensors.items() if not name.startswith("backbone.")}
    check_shapes(stored.folder / TENSORS, found, wanted)


def check_fits(backbone: nn.Module, config: HyperLoaderConfig, layouts: Mapping[str, Layout]) -> None:
    """Raise ``ValueError`` for a model that is larger than the memory of this machine."""
    wanted = _BYTES * sum(tensor.numel() for tensor in tensors_of(backbone, config, layouts).values())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > memory:
        raise ValueError(
            f"config must describe a model that fits this machine's memory of {memory / 2**30:,.0f} GiB, got one of "
            f"{wanted / 2**30:,.0f} GiB: make rank, bottleneck or condition_dim smaller"
        )
