"""What a family of backbones has to name: which ``nn.Linear`` is which site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Stack:
    """One encoder or decoder.

    ``layers`` holds, for every layer, the path of each site's ``nn.Linear`` inside the backbone, as
    ``backbone.get_submodule`` takes it; every layer names the same sites.
    """

    name: str
    layers: Sequence[dict[str, str]]


def encoder_stack(backbone: nn.Module, layers: str, sites: Mapping[str, str]) -> Stack:
    """The encoder of a BERT-like backbone, with or without a head around it.

    ``layers`` is the path of its list of layers inside the base model, ``sites`` the path of each site inside a layer.
    """
    base: Any = backbone.base_model
    prefix = next(name for name, module in backbone.named_modules() if module is base)  # "" for the base model itself
    path = f"{prefix}.{layers}" if prefix else layers
    count = len(base.get_submodule(layers))
    return Stack("encoder", [{site: f"{path}.{i}.{name}" for site, name in sites.items()} for i in range(count)])
