"""Parameters that FSDP2 (``torch.distributed.fsdp.fully_shard``) has shared out to processes: reading them whole.

Whatever gathers is called by all processes at once.
"""

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")  # which FSDP sets on every module that it shards
_STATE = "__composable_api"  # begins the names of attributes that hold what FSDP knows of a module
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has shared out parameters of ``module``."""
    return getattr(module, _MARKS[0], False)


def is_part(tensor: Any) -> bool:
    """Whether this process has a part of ``tensor`` alone."""
    return hasattr(tensor, "full_tensor")


def check_whole(tensors: Iterable[Tensor | None]) -> None:
    """Raise ``RuntimeError`` where a forward reads tensors that FSDP has not gathered."""
    if any(map(is_part, tensors)):
        raise RuntimeError(
            "the parameters that a forward reads must be whole, got parts: FSDP gathers them for the forward of a "
            "module that fully_shard was called on: call it on whole layers of the backbone and, last, on the whole "
            "model, not on modules inside of them; before generate() register_fsdp_forward_method(model, 'generate')"
        )


def whole(tensor: Tensor) -> Tensor:
    """``tensor``, gathered from all processes if they have a part of it each."""
    part: Any = tensor
    return part.full_tensor() if is_part(tensor) else tensor


def shared_like(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of ``tensors``, which every process has whole, the parts that it has of those in ``like``."""
    return {name: _part(tensor, like[name]) for name, tensor in tensors.items()}


def _part(tensor: Tensor, like: Any) -> Tensor:
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    here = tensor.to(like.device)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)


@contextmanager
def gathered(*modules: nn.Module | None) -> Iterator[None]:
    """Inside the block the parameters of ``modules`` are whole, to be read alone."""
    parts: dict[int, nn.Parameter] = {}
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
    for module in (inner for one in modules if one is not None for inner in one.modules()):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if is_part(parameter):
                if id(parameter) not in parts:
                    parts[id(parameter)] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
                replaced.append((module, name, parameter))
    try:
        for module, name, parameter in replaced:
            module._parameters[name] = parts[id(parameter)]
        yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Inside the block ``module`` has whole parameters, to be read alone, and FSDP knows nothing of it: this process
    may call it by itself."""
    if not is_sharded(module):
        yield
        return
    with gathered(module), _as_before_fsdp(module):
        yield


@torch.no_grad()
def whole_copy(module: nn.Module) -> nn.Module:
    """A deep copy of ``module`` with whole parameters, of which FSDP knows nothing."""
    with unsharded(module):
        return copy.deepcopy(module)


@contextmanager
def _as_before_fsdp(module: nn.Module) -> Iterator[None]:
    """Inside the block, modules have the classes, hooks and attributes that they had before ``fully_shard``."""
    kind = sys.modules["torch.distributed.fsdp"].FSDPModule
    kept = [(one, type(one), dict(one.__dict__)) for one in module.modules()]
    try:
        for one, now, attributes in kept:
            if issubclass(now, kind):
                one.__class__ = now.__mro__[2]  # behind the class that FSDP has made and FSDPModule
            for name, value in attributes.items():
                if name in _MARKS or name.startswith(_STATE):
                    del one.__dict__[name]
                elif name in _HOOKS:
                    one.__dict__[name] = type(value)((key, hook) for key, hook in value.items() if not _of_fsdp(hook))
        yield
    finally:
        for one, now, attributes in kept:
            one.__class__ = now
            one.__dict__.update(attributes)


def _of_fsdp(hook: Any) -> bool:
    function = getattr(hook, "hook", hook)  # those of states are wrapped
    return (getattr(function, "__module__", None) or "").startswith("torch.distributed.fsdp")
