"""The two wrappers around a backbone's ``nn.Linear``: an adapter behind it, or a LoRA update beside it."""

import torch
from torch import Tensor, nn

from hyperloader import ops
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.weights import ActiveWeights, Weights

SiteKey = tuple[str, int, str]  # stack, layer, site


class Site(nn.Module):
    """A wrapped ``nn.Linear``. ``weight`` and ``bias`` are still those of the layer, which backbones look at."""

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights):
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

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights, config: HyperLoaderConfig):
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
    """``linear(x) + scaling · lora_B (lora_A x)``.

    ``together`` are sites that read the same ``x`` later in the forward: theirs is computed in the same call, and they
    take it if ``x`` is indeed what they are given.
    """

    def __init__(self, linear: nn.Linear, key: SiteKey, active: ActiveWeights, config: HyperLoaderConfig):
        super().__init__(linear, key, active)
        self.scaling = config.scaling
        self.together: tuple[LoraSite, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        weights = self.active.require()
        ready = weights.take(self.key, x)
        if ready is not None:
            return ready
        together = [site for site in self.together if self._is_like(site)]
        y, *others = self._compute(x, (self, *together), weights)
        for site, result in zip(together, others, strict=True):
            weights.keep(site.key, x, result)
        return y

    def _is_like(self, other: "LoraSite") -> bool:
        """Whether one call can compute both; a user may have changed a layer since it was wrapped."""
        one, two = self.linear, other.linear
        return one.weight.dtype == two.weight.dtype and (one.bias is None) == (two.bias is None)

    def _compute(self, x: Tensor, sites: tuple["LoraSite", ...], weights: Weights) -> list[Tensor]:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        linears = [site.linear for site in sites]
        frozen = [linear.weight for linear in linears]
        biases = None if self.linear.bias is None else [linear.bias for linear in linears]
        lora_A, lora_B = zip(*(weights.sites[site.key] for site in sites), strict=True)
        return ops.lora_linears(
            x, frozen, biases, lora_A, lora_B, group=weights.group_of(x.shape[0]), scaling=self.scaling
        )
