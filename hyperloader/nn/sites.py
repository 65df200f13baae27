"""The two wrappers around a backbone's ``nn.Linear``: an adapter behind it, or a LoRA update beside it."""

import torch
from torch import Tensor, nn

from hyperloader import ops
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.layout import SiteKey
from hyperloader.nn.site_weights import ActiveWeights


class Site(nn.Module):
    """A wrapped ``nn.Linear``. ``weight`` and ``bias`` are still those of the layer, which backbones look at."""

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights) -> None:
        super().__init__()
        self.linear = linear
        self.key = key
        self.active = active

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias


class AdapterSite(Site):
    """``adapter(linear(x))``."""

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights, config: HyperLoaderConfig) -> None:
        super().__init__(linear, key, active)
        self.norm, self.activation, self.eps = config.norm, config.activation, config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        weights = self.active.require()
        y = self.linear(x)
        tensors = weights.sites[self.key]
        pre_norm = dict(zip(("pre_norm_weight", "pre_norm_bias"), tensors[6:], strict=False))
        return ops.adapter(
            y,
            *tensors[:6],
            group=weights.group_of(y.shape[0]),
            norm=self.norm,
            activation=self.activation,
            eps=self.eps,
            **pre_norm,
        )


class LoraSite(Site):
    """``linear(x) + scaling · lora_B (lora_A x)``."""

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights, config: HyperLoaderConfig) -> None:
        super().__init__(linear, key, active)
        self.scaling = config.scaling

    def forward(self, x: Tensor) -> Tensor:
        weights = self.active.require()
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return ops.lora_linear(
            x,
            self.linear.weight,
            self.linear.bias,
            *weights.sites[self.key],
            group=weights.group_of(x.shape[0]),
            scaling=self.scaling,
        )
