"""A training under FSDP2, as accelerate's config file sets it up: what is sharded, and the state of its optimizer."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn

from hyperloader.nn.sharded import shared_like, whole
from hyperloader.processes import process_count
from hyperloader.training.run_config import RunConfig

_OPTIMIZER = "optimizer.pt"


def asks_for_fsdp() -> bool:
    """Whether `accelerate launch` told the processes to shard models; one alone does so on a GPU only."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and (process_count() > 1 or torch.accelerator.is_available())


def uses_fsdp(accelerator: Accelerator) -> bool:
    """Whether ``accelerator`` shards models."""
    return getattr(accelerator.state, "fsdp_plugin", None) is not None


def shard_on_cpus(accelerator: Accelerator) -> bool:
    """Let ``accelerator`` shard models as it was told to on CPUs too, where it would copy them to every process.

    Returns whether it shards models now."""
    state: Any = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU and asks_for_fsdp():
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
    return uses_fsdp(accelerator)


def check_fsdp(config: RunConfig) -> None:
    """Raise ``ValueError`` for settings of accelerate's config file, or of a run, that do not go with FSDP."""
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(
            f"fsdp_version must be 2 in accelerate's config file, got {version}: FSDP1 cannot shard frozen and trained "
            "parameters together"
        )
    if not torch.accelerator.is_available() and not hasattr(torch.cpu.Stream, "record_event"):
        raise ValueError(f"torch must be 2.7 or later for FSDP on CPUs, got {torch.__version__}; take torchrun")
    plugin: Any = FullyShardedDataParallelPlugin()
    instead = "true; take training.gradient_checkpointing"
    for wrong, name, needed, got in (
        (plugin.min_num_params is not None, "auto_wrap_policy", "TRANSFORMER_BASED_WRAP or NO_WRAP", "SIZE_BASED_WRAP"),
        (plugin.activation_checkpointing, "activation_checkpointing", "false", instead),
        (getattr(plugin.cpu_offload, "pin_memory", False), "offload_params", "false", "true"),
    ):
        if wrong:
            raise ValueError(f"fsdp_{name} must be {needed} in accelerate's config file, got {got}")
    if config.backbone_quantization is not None:
        raise ValueError(f"backbone_quantization must be left out with FSDP, got {config.backbone_quantization}")
    for option in ("compile", "recompute_norms"):
        if getattr(config.options, option):
            raise ValueError(f"training.{option} must be false with FSDP, got true")
    if config.model_options.get("sparse_gradients"):
        raise ValueError("model.sparse_gradients must be false with FSDP, got true; torchrun, without FSDP, takes it")


def layers_to_shard(backbone: Any) -> list[str]:
    """The classes of the layers of ``backbone`` that are gathered one by one: those that accelerate's config file
    names, by default all that transformers never splits but those around the input embeddings, which other modules may
    share.

    Raises:
        ValueError: accelerate's config file names others.
    """
    plugin: Any = FullyShardedDataParallelPlugin()
    if plugin.auto_wrap_policy is None:
        return []
    embeddings = backbone.get_input_embeddings().weight
    known = {type(one).__name__ for one in backbone.modules() if type(one).__module__.startswith("transformers.")}
    known -= {type(one).__name__ for one in backbone.modules() if any(p is embeddings for p in one.parameters())}
    layers = sorted(known.intersection(backbone._no_split_modules or ()))
    named = plugin.transformer_cls_names_to_wrap
    if missing := sorted(set(named or ()) - known):
        raise ValueError(
            f"fsdp_transformer_layer_cls_to_wrap must name layers of {type(backbone).__name__} ({', '.join(layers)}), "
            f"got {', '.join(missing)}"
        )
    if not (named or layers):
        raise ValueError(
            "fsdp_transformer_layer_cls_to_wrap must be given in accelerate's config file, got nothing: transformers "
            f"does not say which class the layers of {type(backbone).__name__} have"
        )
    return named or layers


def shard(accelerator: Accelerator, model: Any) -> None:
    """Shard ``model`` itself, so that it can be called alone, with the same settings as what it will be a part of.

    The input embeddings are gathered apart where no other module shares them. Numbers keep their dtypes: with `bf16`
    products are computed by autocast, as without FSDP.
    """
    from torch.distributed.fsdp import fully_shard

    plugin: Any = accelerator.state.fsdp_plugin
    backbone = model.backbone
    embeddings, layers = backbone.get_input_embeddings(), layers_to_shard(backbone)
    sharing = [one for one in backbone.modules() if any(p is embeddings.weight for p in one.parameters(recurse=False))]
    for module in reversed(list(backbone.modules())):  # those inside of others first
        if type(module).__name__ in layers or sharing == [module]:
            fully_shard(module, reshard_after_forward=plugin.reshard_after_forward)
    fully_shard(model)
    plugin.auto_wrap_policy = plugin.mixed_precision_policy = None  # for what is around it, which has no parameters


@contextmanager
def fsdp_training() -> Iterator[None]:
    """A training without the warning, in every step, that a sharded module returns a view: nobody writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*returned a view tensor")
        yield


def give_parameters(prepared: torch.optim.Optimizer, made: torch.optim.Optimizer) -> None:
    """Give an optimizer that accelerate has prepared the parameters of one that was ``made`` now.

    It has looked for them by their addresses, and taken one for another where this process has no number of them (a
    head of fewer labels than processes).
    """
    for group, right in zip(prepared.param_groups, made.param_groups, strict=True):
        group["params"] = right["params"]


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
