"""What the published code's hypernetwork hands to a layer, and the two modules that apply it."""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from hyperloader import ops
from hyperloader.interop.published.names import NORMS
from hyperloader.interop.published.settings import activation, norm_switches, size


class LinearWeights(NamedTuple):
    """``weight`` (out, in) and ``bias`` (out,)."""

    weight: Tensor
    bias: Tensor


class NormWeights(NamedTuple):
    """``weight`` and ``bias`` (hidden,) of a layer norm."""

    weight: Tensor
    bias: Tensor


class AdapterWeights(NamedTuple):
    """One adapter; a norm that it does not have is None."""

    up: LinearWeights
    down: LinearWeights
    pre_norm: NormWeights | None = None
    post_norm: NormWeights | None = None


class LoraWeights(NamedTuple):
    """``a`` (rank, hidden) and ``b`` (hidden, rank)."""

    a: Tensor
    b: Tensor


class MetaLayersAdapterController(nn.Module):
    """Applies one adapter with weights that are handed to it.

        y = x + up(act(down(x)))    with layer norms (eps 1e-5) before ``down`` and behind ``up`` as ``config`` says

    Args:
        config: an object with the attributes ``input_dim``, ``non_linearity``, ``add_layer_norm_before_adapter`` and
            ``add_layer_norm_after_adapter``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.input_dim = size("config.input_dim", getattr(config, "input_dim", None))
        self.activation = activation(config)
        self.add_layer_norm_before_adapter, self.add_layer_norm_after_adapter = norm_switches(config)

    def forward(self, inputs: Tensor, adapter_weights: Any) -> Tensor:
        """Return the adapter's result for ``inputs`` (..., input_dim).

        ``adapter_weights`` has the fields ``up`` and ``down`` (each with ``weight`` and ``bias``) and, as far as norms
        are applied, ``pre_norm`` and ``post_norm``.
        """
        if inputs.shape[-1] != self.input_dim:
            raise ValueError(f"inputs must have shape (..., {self.input_dim}), got {tuple(inputs.shape)}")
        before, after = self.add_layer_norm_before_adapter, self.add_layer_norm_after_adapter
        down, up = adapter_weights.down, adapter_weights.up
        none = (None, None)
        post = _norm(adapter_weights, "post_norm") if after else none
        pre = _norm(adapter_weights, "pre_norm") if before else none
        norm_weight, norm_bias = post if after else pre  # ``pre_norm_*`` are the inner norm of two
        pre_norm_weight, pre_norm_bias = pre if after else none
        return ops.adapter(
            inputs, down.weight, down.bias, up.weight, up.bias, norm_weight, norm_bias, norm=NORMS[before, after],
            activation=self.activation, pre_norm_weight=pre_norm_weight, pre_norm_bias=pre_norm_bias,
        )  # fmt: skip


class MetaLoRALayer(nn.Module):
    """The LoRA term alone: ``matrix_b (matrix_a x)``."""

    def forward(self, x: Tensor, matrix_a: Tensor, matrix_b: Tensor) -> Tensor:
        """Return (..., out) for ``x`` (..., in), ``matrix_a`` (rank, in) and ``matrix_b`` (out, rank)."""
        return functional.linear(functional.linear(x, matrix_a), matrix_b)


def _norm(adapter_weights: Any, name: str) -> tuple[Tensor, Tensor]:
    norm = getattr(adapter_weights, name, None)
    if norm is None:
        raise ValueError(f"adapter_weights.{name} must be given for this configuration, got None")
    return norm.weight, norm.bias
