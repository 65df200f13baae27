"""The wrappers around a backbone's ``nn.Linear``: an adapter behind it, or a LoRA update beside it."""

import torch
from torch import Tensor, nn

from hyperloader import ops
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.layout import ADAPTER_WEIGHTS, SiteKey, SiteTensors
from hyperloader.nn.site_weights import ActiveWeights


class WrappedLinear(nn.Module):
    """``weight`` and ``bias`` are those of the layer inside, because backbones read them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias


class Site(WrappedLinear):
    """A wrapped layer whose adapter or LoRA update is generated: ``active`` holds it under ``key``."""

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights) -> None:
        super().__init__(linear)
        self.key = key
        self.active = active


class AdapterSite(Site):
    """``adapter(linear(x))``."""

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights, config: HyperLoaderConfig) -> None:
        super().__init__(linear, key, active)
        self.norm, self.activation, self.eps = config.norm, config.activation, config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        active = self.active.require()
        y = self.linear(x)
        return ops.adapter(
            y,
            **dict(zip(ADAPTER_WEIGHTS, active.sites[self.key], strict=False)),
            group=active.group_of(y.shape[0]),
            norm=self.norm,
            activation=self.activation,
            eps=self.eps,
        )


class LoraSite(Site):
    """``linear(x) + scaling · lora_B (lora_A x)``."""

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights, config: HyperLoaderConfig) -> None:
        super().__init__(linear, key, active)
        self.scaling = config.scaling

    def forward(self, x: Tensor) -> Tensor:
        active = self.active.require()
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return ops.lora_linear(
            x,
            self.linear.weight,
            self.linear.bias,
            *active.sites[self.key],
            group=active.group_of(x.shape[0]),
            scaling=self.scaling,
        )


class AdaptedLinear(WrappedLinear):
    """``adapter(linear(x))`` with weights of its own: a site of one task's merged model.

    Args:
        linear: the layer.
        tensors: what is generated for an adapter's site, without a dimension for tasks; copied.
        config: says where the adapter normalises, its activation and epsilon.
    """

    down_bias: Tensor  # (bottleneck,)
    up_bias: Tensor  # (out_features,)

    def __init__(self, linear: nn.Linear, tensors: SiteTensors, config: HyperLoaderConfig) -> None:
        super().__init__(linear)
        self.norm, self.activation, self.eps = config.norm, config.activation, config.norm_eps
        for name, tensor in zip(ADAPTER_WEIGHTS, tensors, strict=False):
            self.register_parameter(name, nn.Parameter(tensor.detach().clone(), requires_grad=False))
        for name in ADAPTER_WEIGHTS[len(tensors) :]:
            self.register_parameter(name, None)

    def forward(self, x: Tensor) -> Tensor:
        weights = {name: getattr(self, name) for name in ADAPTER_WEIGHTS}
        return ops.adapter(self.linear(x), **weights, norm=self.norm, activation=self.activation, eps=self.eps)
