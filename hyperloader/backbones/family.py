"""What a family of backbones has to name: which linear layer is which site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hyperloader.nn.linears import Rows, sizes_of


@dataclass(frozen=True)
class Stack:
    """One encoder or decoder.

    ``layers`` holds, for every layer, the path of each site's ``nn.Linear`` (or transformers' ``Conv1D``) inside the
    backbone, as ``backbone.get_submodule`` takes it; every layer names the same sites. ``slices`` are the outputs of a
    fused projection that a LoRA site is, first and one behind the last; sites without are all outputs of their layer.
    """

    name: str
    layers: Sequence[dict[str, str]]
    slices: Mapping[str, Rows] = field(default_factory=dict)

    def rows(self, backbone: nn.Module, layer: int, site: str) -> Rows:
        """The outputs of its linear layer that a site is."""
        whole = (0, sizes_of(backbone.get_submodule(self.layers[layer][site]))[1])
        return self.slices.get(site, whole)


def stack_of(
    backbone: nn.Module, name: str, layers: str, sites: Mapping[str, str], slices: Mapping[str, Rows] | None = None
) -> Stack:
    """The stack ``name`` of a backbone, with or without a head around its base model.

    ``layers`` is the path of its list of layers inside the base model, ``sites`` the path of each site inside a layer.
    """
    base: Any = backbone.base_model
    path, count = path_of_base(backbone) + layers, len(base.get_submodule(layers))
    paths = [{site: f"{path}.{i}.{inside}" for site, inside in sites.items()} for i in range(count)]
    return Stack(name, paths, slices or {})


def path_of_base(backbone: Any) -> str:
    """The path of the base model, with a dot behind it; "" where ``backbone`` is the base model itself."""
    path = next(path for path, module in backbone.named_modules() if module is backbone.base_model)
    return f"{path}." if path else ""


def one_after_another(sizes: Mapping[str, int]) -> dict[str, Rows]:
    """The slices of a fused projection that is made of sites of these sizes, in this order."""
    slices, start = {}, 0
    for site, size in sizes.items():
        slices[site] = (start, start + size)
        start += size
    return slices
