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
    """The encoder of a BERT-like backbone, with or without a head around it: see ``stack_of``."""
    return stack_of(backbone, "encoder", layers, sites)


def stack_of(backbone: nn.Module, name: str, layers: str, sites: Mapping[str, str]) -> Stack:
    """The stack ``name`` of a backbone, with or without a head around its base model.

    ``layers`` is the path of its list of layers inside the base model, ``sites`` the path of each site inside a layer.
    """
    base: Any = backbone.base_model
    path, count = path_of_base(backbone) + layers, len(base.get_submodule(layers))
    return Stack(name, [{site: f"{path}.{i}.{inside}" for site, inside in sites.items()} for i in range(count)])


def path_of_base(backbone: Any) -> str:
    """The path of the base model, with a dot behind it; "" where ``backbone`` is the base model itself."""
    path = next(path for path, module in backbone.named_modules() if module is backbone.base_model)
    return f"{path}." if path else ""
