"""The wrappers around a backbone's linear layers: an adapter behind one, or LoRA updates beside it.

A decoder calls them dozens of times for a token, each time with caches that the backbone's weights have just filled: a
line of Python costs four times what it does in a loop of its own. So they call operators without names for arguments,
and look up modules where ``nn.Module`` keeps them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.fused_projection import joined
from hyperloader.nn.layout import ADAPTER_WEIGHTS, LayerSites, SiteKey, SiteTensors
from hyperloader.nn.linears import Rows, sizes_of, weight_of
from hyperloader.nn.quantized import FrozenProduct, quantization_of
from hyperloader.nn.recompute import made_again
from hyperloader.nn.sharded import check_whole, is_part
from hyperloader.nn.site_weights import ActiveWeights
from hyperloader.ops.backend import operator
from hyperloader.reference.batches import as_batches, of_batches

_ABSENT = (None,) * len(ADAPTER_WEIGHTS)


class WrappedLinear(nn.Module):
    """``weight`` and ``bias`` are those of the layer inside, because backbones read them."""

    linear: Any

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias


class FrozenLinear(WrappedLinear):
    """A layer quantised by torchao, with the gradient of its dequantised weight."""

    def forward(self, x: Tensor) -> Tensor:
        return FrozenProduct.apply(x, self.linear)


class Site(WrappedLinear):
    """A wrapped layer whose adapter or LoRA updates are generated: ``active`` holds them."""

    def __init__(self, linear: nn.Module, active: ActiveWeights) -> None:
        super().__init__(linear)
        self.active = active


class AdapterSite(Site):
    """``adapter(linear(x))``."""

    def __init__(self, linear: nn.Module, key: SiteKey, active: ActiveWeights, config: HyperLoaderConfig) -> None:
        super().__init__(linear, active)
        self.key = key
        self.norm, self.activation, self.eps = config.norm, config.activation, config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        active = self.active.require()
        linear: Any = self._modules["linear"]
        y, weights = linear(x), active.sites[self.key]
        absent = _ABSENT[len(weights) :]
        group = active.group_of(y.shape[0])
        return operator("adapter")(y, *weights, *absent, group, self.norm, self.activation, self.eps)[0]


class LoraSite(Site):
    """``linear(x) + scaling · lora_B (lora_A x)``; of a fused projection each site updates its ``rows``."""

    def __init__(
        self, linear: nn.Module, rows: Mapping[SiteKey, Rows], active: ActiveWeights, config: HyperLoaderConfig
    ) -> None:
        super().__init__(linear, active)
        self.rows = rows
        self.out_features = sizes_of(unwrapped(linear))[1]
        self._whole = next((key for key, own in rows.items() if own == (0, self.out_features)), None)
        self.scaling = config.scaling

    def update(self) -> tuple[Tensor, Tensor]:
        """The active ``lora_A`` and ``lora_B`` of the whole layer."""
        sites = self.active.require().sites
        if self._whole is not None:
            lora_A, lora_B = sites[self._whole]
            return lora_A, lora_B
        return joined([(sites[key], rows) for key, rows in self.rows.items()], self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        active, given = self.active.require(), x
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        linear: Any = self._modules["linear"]
        weight = weight_of(linear)
        if is_part(weight):
            check_whole([weight])
        lora_A, lora_B = self.update()
        group = active.group_of(x.shape[0])
        with made_again(given, x):
            return operator("lora_linear")(x, weight, linear.bias, lora_A, lora_B, group, self.scaling)


class QuantizedLoraSite(LoraSite):
    """``LoraSite`` of a quantised layer, whose own forward is called: the update is beside it."""

    def forward(self, x: Tensor) -> Tensor:
        group = self.active.require().group_of(x.shape[0])
        with made_again(x, x):
            return _beside(self.linear(x), x, *self.update(), group, self.scaling)


def _beside(y: Tensor, x: Tensor, lora_A: Tensor, lora_B: Tensor, group: Tensor | None, scaling: float) -> Tensor:
    """``y + scaling · lora_B (lora_A x)``, the update summed in float32 at least."""
    batches = as_batches(x, group)
    down, up = of_batches(lora_A, group, batches.dtype), of_batches(lora_B, group, batches.dtype)
    return y + (scaling * ((batches @ down.mT) @ up.mT)).reshape(y.shape).to(y.dtype)


def wrapped(linear: nn.Module, sites: LayerSites, active: ActiveWeights, config: HyperLoaderConfig) -> Site:
    """``linear`` with its ``sites``, at least one."""
    quantized = quantization_of(linear) is not None
    inside = frozen(linear)
    if sites.lora:
        inside = (QuantizedLoraSite if quantized else LoraSite)(inside, sites.lora, active, config)
    if sites.adapter is not None:
        return AdapterSite(inside, sites.adapter, active, config)
    assert isinstance(inside, LoraSite)
    return inside


def frozen(linear: nn.Module) -> nn.Module:
    """``linear``, around which there is a ``FrozenLinear`` if its own backward does not do."""
    return FrozenLinear(linear) if (quantization_of(linear) or "").startswith("torchao") else linear


def unwrapped(module: nn.Module) -> nn.Module:
    """The backbone's own layer inside ``module``."""
    while isinstance(module, WrappedLinear):
        module = module.linear
    return module


class AdaptedLinear(WrappedLinear):
    """``adapter(linear(x))`` with weights of its own: a site of one task's merged model.

    Args:
        linear: the layer.
        tensors: what is generated for an adapter's site, without a dimension for tasks; copied.
        config: says where the adapter normalises, its activation and epsilon.
    """

    down_bias: Tensor  # (bottleneck,)
    up_bias: Tensor  # (out_features,)

    def __init__(self, linear: nn.Module, tensors: SiteTensors, config: HyperLoaderConfig) -> None:
        super().__init__(linear)
        self.norm, self.activation, self.eps = config.norm, config.activation, config.norm_eps
        for name, tensor in zip(ADAPTER_WEIGHTS, tensors, strict=False):
            self.register_parameter(name, nn.Parameter(tensor.detach().clone(), requires_grad=False))
        for name in ADAPTER_WEIGHTS[len(tensors) :]:
            self.register_parameter(name, None)

    def forward(self, x: Tensor) -> Tensor:
        linear: Any = self._modules["linear"]
        weights = [self._parameters[name] for name in ADAPTER_WEIGHTS]
        return operator("adapter")(linear(x), *weights, None, self.norm, self.activation, self.eps)[0]


class UpdatedLinear(WrappedLinear):
    """``linear(x) + scaling · lora_B (lora_A x)`` with weights of its own: a quantised site of a merged model.

    Args:
        linear: the layer.
        lora_A: (rank, in_features); copied.
        lora_B: (out_features, rank); copied.
        scaling: factor of the update.
    """

    def __init__(self, linear: nn.Module, lora_A: Tensor, lora_B: Tensor, scaling: float) -> None:
        super().__init__(linear)
        self.lora_A = nn.Parameter(lora_A.detach().clone(), requires_grad=False)
        self.lora_B = nn.Parameter(lora_B.detach().clone(), requires_grad=False)
        self.scaling = scaling

    def forward(self, x: Tensor) -> Tensor:
        return _beside(self.linear(x), x, self.lora_A, self.lora_B, None, self.scaling)
