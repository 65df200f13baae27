"""Reads and writes the trained parameters of a model, and nothing else of it."""

from pathlib import Path

import torch
from torch import nn

from hyperloader import HyperLoaderModel
from hyperloader.backbones.cross_attention_bias import match_stored_bias
from hyperloader.checkpoints import stored_model
from hyperloader.checkpoints.tensors import check_tensors, read_tensors, write_tensors
from hyperloader.nn.sharded import shared_like, whole

WEIGHTS = "trained.safetensors"


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name; a shared one has one name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_trained(model: nn.Module, folder: Path, is_main_process: bool = True) -> None:
    """Write ``trained_parameters`` to ``folder/trained.safetensors``."""
    tensors = {name: whole(parameter.detach()) for name, parameter in trained_parameters(model).items()}
    if is_main_process:
        write_tensors(folder / WEIGHTS, tensors)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy what ``model.save_pretrained`` wrote into ``model``; nothing is copied unless every name and shape agrees.

    Raises:
        FileNotFoundError, ValueError: a missing, truncated or foreign file, or another backbone.
    """
    if isinstance(model, HyperLoaderModel):
        stored = stored_model.load(folder)
        match_stored_bias(model.backbone, stored.tensors)  # an earlier version trained the preset without it
        stored.check_backbone(model.backbone)
        stored.check_tensors(model.trainable_state())
        model.load_trainable_state(stored.tensors)
    else:
        _load_trained(model, Path(folder) / WEIGHTS)


def _load_trained(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the folder must be a checkpoint of a run")
    tensors, parameters = read_tensors(path), trained_parameters(model)
    check_tensors(path, tensors, parameters)
    model.load_state_dict(shared_like(tensors, model.state_dict()), strict=False)


def broken_weights(model: nn.Module) -> str | None:
    """The name of a trained parameter that holds NaN or infinity, or ``None``."""
    for name, parameter in trained_parameters(model).items():
        if not torch.isfinite(whole(parameter.detach())).all():
            return name
    return None
