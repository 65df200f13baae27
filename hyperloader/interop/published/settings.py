"""Reading the published code's ``config``: a plain object with attributes."""

from dataclasses import dataclass
from typing import Any

import torch

from hyperloader.validation import check_switch, check_whole

RANK = 8  # of the published LoRA updates, whose scaling is 1
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_new",  # the same polynomial in another order
    "gelu_new": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Sizes:
    """What of ``config`` a hypernetwork depends on."""

    task_embedding_dim: int
    condition_dim: int
    condition_hidden_dim: int
    hidden: int
    bottleneck: int
    condition_norm: bool  # whether the condition ends in a layer norm
    norm_before: bool
    norm_after: bool
    device: torch.device

    @classmethod
    def of(cls, config: Any) -> "Sizes":
        """Read ``config``; raises for an attribute that is missing or that nothing here can be made of."""
        hidden, reduction_factor = _size(config, "input_dim"), _size(config, "reduction_factor")
        if reduction_factor > hidden:
            raise ValueError(f"config.reduction_factor must be at most input_dim ({hidden}), got {reduction_factor}")
        norm_before, norm_after = norm_switches(config)
        return cls(
            task_embedding_dim=_size(config, "task_embedding_dim"),
            condition_dim=_size(config, "projected_task_embedding_dim"),
            condition_hidden_dim=_size(config, "task_hidden_dim"),
            hidden=hidden,
            bottleneck=hidden // reduction_factor,
            condition_norm=_switch(config, "unique_hyper_net_layer_norm"),
            norm_before=norm_before,
            norm_after=norm_after,
            device=torch.device(_value(config, "device")),
        )


def norm_switches(config: Any) -> tuple[bool, bool]:
    """Whether adapters normalise before and after their two products."""
    return _switch(config, "add_layer_norm_before_adapter"), _switch(config, "add_layer_norm_after_adapter")


def activation(config: Any) -> str:
    """Our name of ``config.non_linearity``, which is swish where it is not given."""
    return activation_of("config.non_linearity", getattr(config, "non_linearity", "swish"))


def activation_of(name: str, given: Any) -> str:
    """Our name of the published activation ``given``, which stands under ``name``."""
    known = _ACTIVATIONS.get(given.lower()) if isinstance(given, str) else None
    if known is None:
        raise ValueError(f"{name} must be one of {', '.join(_ACTIVATIONS)}, got {given!r:.80}")
    return known


def size(name: str, value: Any) -> int:
    """``value``, if it is a whole number of at least 1."""
    check_whole(name, value)
    return value


def _size(config: Any, name: str) -> int:
    return size(f"config.{name}", _value(config, name))


def _switch(config: Any, name: str) -> bool:
    value = _value(config, name)
    check_switch(f"config.{name}", value)
    return value


def _value(config: Any, name: str) -> Any:
    if not hasattr(config, name):
        raise AttributeError(f"config must have the attribute {name}, got a {type(config).__name__} without it")
    return getattr(config, name)
