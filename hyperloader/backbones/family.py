"""What a family of backbones has to name: which ``nn.Linear`` is which site."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Stack:
    """One encoder or decoder.

    ``layers`` holds, for every layer, the path of each site's ``nn.Linear`` inside the backbone, as
    ``backbone.get_submodule`` takes it; every layer names the same sites.
    """

    name: str
    layers: Sequence[dict[str, str]]


def child_path(parent: nn.Module, child: nn.Module) -> str:
    """Path of ``child`` inside ``parent``, "" for itself."""
    return next(name for name, module in parent.named_modules() if module is child)


def joined(*parts: str) -> str:
    """Dotted path of the parts that are not empty."""
    return ".".join(part for part in parts if part)
