"""Buffers that are in no state, of indices and positions: their values are known, so that lost ones can be filled in
again."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_VALUES: dict[str, Callable[[Tensor], Tensor]] = {  # of the backbones' families, by the last part of the name
    "position_ids": lambda buffer: torch.arange(buffer.shape[-1], device=buffer.device).expand(buffer.shape),
    "token_type_ids": torch.zeros_like,
}


def outside_of_state(model: nn.Module) -> list[str]:
    """Names of the buffers that ``state_dict`` leaves out."""
    held = model.state_dict().keys()
    return [name for name, _ in model.named_buffers() if name not in held]


@torch.no_grad()
def restore(backbone: nn.Module, names: Iterable[str]) -> None:
    """Fill the buffers ``names``, whose memory is uninitialised, with the values that they have in every backbone.

    Raises:
        RuntimeError: a buffer whose values are not known.
    """
    for name in names:
        buffer = backbone.get_buffer(name)
        path, _, own = name.rpartition(".")
        if buffer.is_meta:
            continue
        value = _VALUES[own](buffer) if own in _VALUES else _made_again(backbone.get_submodule(path), own)
        if value is None:
            raise RuntimeError(
                f"the backbone's buffer {name} is in no state_dict and its values are lost: load the backbone with "
                "from_pretrained, not through the device meta"
            )
        buffer.copy_(value)


def _made_again(owner: Any, name: str) -> Tensor | None:
    """The values of what a decoder keeps of its config: frequencies of rotary positions, Gemma's scale; None for any
    other buffer."""
    if type(owner).__name__.endswith("RotaryEmbedding") and hasattr(owner, "config"):
        return type(owner)(owner.config).get_buffer(name)
    return torch.tensor(owner.scalar_embed_scale) if name == "embed_scale" else None
