"""A training under FSDP2, as accelerate's config file sets it up: what is sharded, and the state of its optimizer."""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hyperloader.nn.quantized import quantized_layers
from hyperloader.nn.sharded import shared_like, whole

_OPTIMIZER = "optimizer.pt"


def asks_for_fsdp() -> bool:
    """Whether `accelerate launch` was told to shard models, as it tells the processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def uses_fsdp(accelerator: Accelerator) -> bool:
    """Whether accelerate was told to shard models."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def shard(accelerator: Accelerator, model: Any) -> None:
    """Shard ``model`` itself, so that it can be called alone, with the same settings as what it will be a part of.

    Raises:
        ValueError: settings by which it cannot be sharded.
    """
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import register_fsdp_forward_method

    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"fsdp_version must be 2 in accelerate's config file, got {plugin.fsdp_version}: FSDP1 cannot shard frozen "
            "and trained parameters together"
        )
    quantized = next((path for path, _ in quantized_layers(model)), None)
    if quantized is not None:
        raise ValueError(
            f"a quantised backbone must not be sharded by FSDP, got {quantized}: start the run without FSDP"
        )
    backbone: Any = getattr(model, "backbone", model)
    known = {type(module).__name__ for module in backbone.modules()}
    layers = sorted(known.intersection(getattr(backbone, "_no_split_modules", None) or ()))
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = layers
    elif missing := sorted(set(plugin.transformer_cls_names_to_wrap) - known):
        raise ValueError(
            f"fsdp_transformer_layer_cls_to_wrap must name layers of {type(backbone).__name__} ({', '.join(layers)}), "
            f"got {', '.join(missing)}"
        )
    fsdp2_prepare_model(accelerator, model)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")


def save_optimizer(optimizer: torch.optim.Optimizer, folder: Path, is_main_process: bool) -> None:
    """Write the state of ``optimizer`` as it is without FSDP; all processes call this."""
    state = optimizer.state_dict()
    state["state"] = {
        number: {name: whole(one) if isinstance(one, Tensor) else one for name, one in of_parameter.items()}
        for number, of_parameter in state["state"].items()
    }
    if is_main_process:
        torch.save(state, folder / _OPTIMIZER)


def load_optimizer(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read what ``save_optimizer``, or a training without FSDP, wrote: each process takes its part."""
    state = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True)
    parameters: list[nn.Parameter] = [one for group in optimizer.param_groups for one in group["params"]]
    for number, of_parameter in state["state"].items():
        like = parameters[number]
        tensors = {name: one for name, one in of_parameter.items() if isinstance(one, Tensor) and one.ndim}
        of_parameter |= shared_like(tensors, dict.fromkeys(tensors, like))
    optimizer.load_state_dict(state)
