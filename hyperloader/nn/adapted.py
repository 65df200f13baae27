"""A linear layer with an adapter behind it, whose weights are its own."""

from torch import Tensor, nn

from hyperloader import ops
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.layout import ADAPTER_WEIGHTS, SiteTensors


class AdaptedLinear(nn.Module):
    """``adapter(linear(x))``. ``weight`` and ``bias`` are those of the linear layer, which backbones look at.

    Args:
        linear: the layer.
        tensors: what is generated for an adapter's site, without a dimension for tasks; copied.
        config: says where the adapter normalises, its activation and epsilon.
    """

    down_weight: Tensor
    down_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    pre_norm_weight: Tensor | None
    pre_norm_bias: Tensor | None

    def __init__(self, linear: nn.Linear, tensors: SiteTensors, config: HyperLoaderConfig) -> None:
        super().__init__()
        self.linear = linear
        self.norm, self.activation, self.eps = config.norm, config.activation, config.norm_eps
        for name, tensor in zip(ADAPTER_WEIGHTS, tensors, strict=False):
            self.register_parameter(name, nn.Parameter(tensor.detach().clone(), requires_grad=False))
        for name in ADAPTER_WEIGHTS[len(tensors) :]:
            self.register_parameter(name, None)

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    @property
    def bias(self) -> Tensor | None:
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return ops.adapter(
            self.linear(x),
            self.down_weight,
            self.down_bias,
            self.up_weight,
            self.up_bias,
            self.norm_weight,
            self.norm_bias,
            pre_norm_weight=self.pre_norm_weight,
            pre_norm_bias=self.pre_norm_bias,
            norm=self.norm,
            activation=self.activation,
            eps=self.eps,
        )
