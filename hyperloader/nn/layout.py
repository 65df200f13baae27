"""Which weight tensors one stack of a backbone needs, and of what shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from hyperloader.config import ADAPTER_SITES, POSITIONS, HyperLoaderConfig
from hyperloader.nn.linears import Rows

# In the order of ``ops.adapter``'s arguments: the weights of an adapter and of its norms.
_ADAPTER = ("down_weight", "down_bias", "up_weight", "up_bias")
_NORM = ("norm_weight", "norm_bias")
_PRE_NORM = ("pre_norm_weight", "pre_norm_bias")
ADAPTER_WEIGHTS = (*_ADAPTER, *_NORM, *_PRE_NORM)

SiteKey = tuple[str, int, str]  # stack, layer, site
SiteTensors = tuple[Tensor, ...]  # of one site, in the order of the arguments of its operator


@dataclass(frozen=True)
class LayerSites:
    """The sites at one linear layer: LoRA updates, each of its own outputs, and an adapter behind it."""

    lora: Mapping[SiteKey, Rows]
    adapter: SiteKey | None


@dataclass(frozen=True)
class Part:
    """Adapters or LoRA updates of one shape: their sites share the weight heads.

    ``sites`` stand in the order of their positions. ``heads`` maps a weight to its head, which has the weight's name;
    with a second shape in a stack its sizes follow, as in ``lora_B_576x192``.
    """

    sites: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]  # weight -> shape
    heads: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """The sites of one stack and the shapes of what is generated for them; every layer has all of them.

    ``parts`` begin with those of the adapters.
    """

    num_layers: int
    parts: tuple[Part, ...]

    @property
    def positions(self) -> list[int]:
        """The positions that something is generated for, part by part."""
        return [POSITIONS[site] for part in self.parts for site in part.sites]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every head's shape."""
        return {part.heads[weight]: shape for part in self.parts for weight, shape in part.shapes.items()}

    def sites_of(self, part: Part) -> list[tuple[int, str]]:
        """(layer, site) of the rows of what is generated for ``part``, in their order."""
        return [(layer, site) for site in part.sites for layer in range(self.num_layers)]


def layout_of(config: HyperLoaderConfig, num_layers: int, sizes: Mapping[str, tuple[int, int]]) -> Layout:
    """Plan a stack whose layers have the sites ``sizes``: site -> in_features and out_features there."""
    parts: list[Part] = []
    for wanted in (config.adapter_sites, config.lora_sites):
        by_shape: dict[tuple[int, ...], list[str]] = {}  # an adapter acts on the outputs alone
        for site in wanted:
            if site in sizes:
                by_shape.setdefault(sizes[site][1:] if site in ADAPTER_SITES else sizes[site], []).append(site)
        for number, (size, sites) in enumerate(by_shape.items()):
            shapes = adapter_shapes(config, *size) if len(size) == 1 else _lora_shapes(config, *size)
            suffix = "_" + "x".join(map(str, size)) if number else ""
            parts.append(Part(tuple(sites), shapes, {weight: weight + suffix for weight in shapes}))
    return Layout(num_layers, tuple(parts))


def adapter_shapes(config: HyperLoaderConfig, hidden: int, bottleneck: int | None = None) -> dict[str, tuple[int, ...]]:
    """Weight -> shape of an adapter, in the order of ``ops.adapter``'s arguments; of that ``bottleneck`` if given."""
    bottleneck = bottleneck or config.bottleneck_of(hidden)
    sizes = [(bottleneck, hidden), (bottleneck,), (hidden, bottleneck), (hidden,)]
    shapes: dict[str, tuple[int, ...]] = dict(zip(_ADAPTER, sizes, strict=True))
    if config.norm != "none":
        shapes |= dict.fromkeys(_NORM, (hidden,))
    if config.norm == "both":
        shapes |= dict.fromkeys(_PRE_NORM, (hidden,))
    return shapes


def _lora_shapes(config: HyperLoaderConfig, in_features: int, out_features: int) -> dict[str, tuple[int, ...]]:
    return {"lora_A": (config.rank, in_features), "lora_B": (out_features, config.rank)}


def by_site(sites: Sequence[tuple[int, str]], tensors: Sequence[Tensor]) -> dict[tuple[int, str], SiteTensors]:
    """Cut ``tensors``, (sites, ...) each, into one tuple of weights per site.

    One ``unbind`` per tensor: its backward is one ``stack``, where slices would each fill a tensor of full size.
    """
    return dict(zip(sites, zip(*(tensor.unbind(0) for tensor in tensors), strict=True), strict=True))
