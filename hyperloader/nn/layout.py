"""Which weight tensors one stack of a backbone needs, and of what shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hyperloader.config import POSITIONS, HyperLoaderConfig

# In the order of ``ops.adapter``'s arguments: the weights of an adapter and of its norms.
_ADAPTER = ("down_weight", "down_bias", "up_weight", "up_bias")
_NORM = ("norm_weight", "norm_bias")
_PRE_NORM = ("pre_norm_weight", "pre_norm_bias")
ADAPTER_WEIGHTS = (*_ADAPTER, *_NORM, *_PRE_NORM)

SiteKey = tuple[str, int, str]  # stack, layer, site
SiteTensors = tuple[Tensor, ...]  # of one site, in the order of the arguments of its operator


@dataclass(frozen=True)
class Layout:
    """The sites of one stack and the shapes of what is generated for them.

    ``adapter_sites`` and ``lora_sites`` stand in the order of their positions; every layer has all of them.
    """

    num_layers: int
    adapter_sites: tuple[str, ...]
    lora_sites: tuple[str, ...]
    adapter_shapes: Mapping[str, tuple[int, ...]]  # head -> shape of the weight it generates
    lora_shapes: Mapping[str, tuple[int, ...]]

    @property
    def positions(self) -> list[int]:
        """The positions that something is generated for, adapters first."""
        return [POSITIONS[site] for site in self.adapter_sites + self.lora_sites]

    @property
    def parts(self) -> list[tuple[tuple[str, ...], Mapping[str, tuple[int, ...]]]]:
        """(sites, shapes) of the adapters and of the LoRA updates; without those that there are none of."""
        both = ((self.adapter_sites, self.adapter_shapes), (self.lora_sites, self.lora_shapes))
        return [(sites, shapes) for sites, shapes in both if sites]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every head's shape."""
        return {**self.adapter_shapes, **self.lora_shapes}

    def sites_of(self, kinds: Sequence[str]) -> list[tuple[int, str]]:
        """(layer, site) of the rows of what is generated for ``kinds``, in their order."""
        return [(layer, kind) for kind in kinds for layer in range(self.num_layers)]


def layout_of(
    config: HyperLoaderConfig, num_layers: int, available: Sequence[str], hidden: int, lora_in: int, lora_out: int
) -> Layout:
    """Plan a stack: ``available`` are the sites its layers have, ``hidden`` the width its adapters act on."""
    adapter_sites = tuple(site for site in config.adapter_sites if site in available)
    lora_sites = tuple(site for site in config.lora_sites if site in available)
    adapter_shapes, lora_shapes = {}, {}
    if adapter_sites:
        bottleneck = config.bottleneck_of(hidden)
        adapter_shapes = dict(
            zip(_ADAPTER, [(bottleneck, hidden), (bottleneck,), (hidden, bottleneck), (hidden,)], strict=True)
        )
        if config.norm != "none":
            adapter_shapes |= dict.fromkeys(_NORM, (hidden,))
        if config.norm == "both":
            adapter_shapes |= dict.fromkeys(_PRE_NORM, (hidden,))
    if lora_sites:
        lora_shapes = {"lora_A": (config.rank, lora_in), "lora_B": (lora_out, config.rank)}
    return Layout(num_layers, adapter_sites, lora_sites, adapter_shapes, lora_shapes)


def by_site(sites: Sequence[tuple[int, str]], tensors: Sequence[Tensor]) -> dict[tuple[int, str], SiteTensors]:
    """Cut ``tensors``, (sites, ...) each, into one tuple of weights per site.

    One ``unbind`` per tensor: its backward is one ``stack``, where slices would each fill a tensor of full size.
    """
    return dict(zip(sites, zip(*(tensor.unbind(0) for tensor in tensors), strict=True), strict=True))
