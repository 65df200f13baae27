"""Linear layers whose weights a library has quantised: which ones, their weights as numbers, gradients through them."""

import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_PACKS = "support_avx512bf16_for_cpu"  # an attribute of bitsandbytes' layers
_LEFT_OUT = "_ddp_params_and_buffers_to_ignore"  # where DistributedDataParallel looks


def quantization_of(module: nn.Module) -> str | None:
    """What the weight of a linear layer is quantised as, such as ``torchao-int8``; None for any other module.

    A layer of bitsandbytes with weights in half precision, which are quantised anew for every product, is none.
    """
    weight: Any = module._parameters.get("weight")
    if type(module) is nn.Linear and type(weight).__module__.startswith("torchao."):
        return f"torchao-{_torchao_kind(weight)}"
    if not type(module).__module__.startswith("bitsandbytes.") or weight is None:
        return None
    if hasattr(weight, "quant_type"):
        blocks = "" if weight.blocksize == 64 else f"-blocks-of-{weight.blocksize}"
        return f"bitsandbytes-{weight.quant_type}{blocks}{'-nested' if weight.compress_statistics else ''}"
    state: Any = getattr(module, "state", None)
    if state is None or getattr(weight, "has_fp16_weights", True):
        return None
    return f"bitsandbytes-int8-up-to-{state.threshold:g}" if state.threshold else "bitsandbytes-int8"


def _torchao_kind(weight: Any) -> str:
    kind = type(weight).__name__
    if kind == "Int8Tensor":
        return "int8" if weight.act_quant_kwargs is None and weight.act_quant_scale is None else "int8-dynamic"
    if kind == "IntxUnpackedToInt8Tensor" and weight.activation_quantization is None:
        return str(weight.target_dtype).removeprefix("torch.")
    return kind


def quantized_layers(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of every quantised linear layer."""
    return ((path, module) for path, module in backbone.named_modules() if quantization_of(module) is not None)


def leave_out_of_ddp(module: nn.Module, path: str, inside: nn.Module) -> None:
    """Keep DistributedDataParallel around ``module`` from sending quantised weights at its start: it cannot send those
    of torchao, and each process has loaded its own.

    Args:
        path: of ``inside`` in ``module``.
        inside: a backbone, or a module that this was called for.
    """
    known = getattr(inside, _LEFT_OUT, None)
    names = [f"{name}.weight" for name, _ in quantized_layers(inside)] if known is None else known
    if names:
        setattr(module, _LEFT_OUT, [f"{path}.{name}" for name in names])


def check_plain_layers(backbone: nn.Module, verb: str, way_out: str) -> None:
    """Raise ``ValueError``, ending with ``way_out``, for a backbone with quantised layers, whose model cannot be
    ``verb`` (saved, exported)."""
    for path, layer in quantized_layers(backbone):
        plain = re.sub(r"(\.linear)+$", "", path)  # of the wrappers around it
        raise ValueError(
            f"this model must have plain layers to be {verb}, got {quantization_of(layer)} at {plain}: {way_out}"
        )


@torch.no_grad()
def dequantized(linear: Any) -> Tensor:
    """The weight (out_features, in_features) of a quantised layer as floating-point numbers, new memory."""
    weight = linear.weight
    if type(weight).__module__.startswith("torchao."):
        return weight.dequantize()
    if hasattr(weight, "quant_type"):
        functional: Any = importlib.import_module("bitsandbytes.functional")
        return functional.dequantize_4bit(weight.data, weight.quant_state)
    numbers, factors = _int8_weight(linear)
    return numbers.float() * (factors.float()[:, None] / 127)


def weight_version(linear: Any) -> tuple | None:
    """Another one when the weight of a quantised layer has been changed, but by what writes through ``.data``; None for
    a tensor of ``torch.inference_mode``, which counts no changes."""
    weight = linear.weight
    if type(weight).__module__.startswith("torchao."):
        parts = [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]
    elif hasattr(weight, "quant_type"):
        nested = getattr(weight.quant_state, "state2", None)
        parts = [weight, weight.quant_state.absmax, *([] if nested is None else [nested.absmax])]
    else:
        parts = list(_int8_weight(linear))
    if any(part.is_inference() for part in (weight, *parts)):
        return None
    return weight._version, *((part.data_ptr(), part._version) for part in parts)


def _int8_weight(linear: Any) -> tuple[Tensor, Tensor]:
    """The numbers (out_features, in_features) of bitsandbytes' int8, and their factors (out_features,)."""
    weight, state = linear.weight, linear.state
    numbers, factors = (state.CB, state.SCB) if weight.SCB is None else (weight.CB, weight.SCB)
    return weight.data if numbers is None else numbers, factors


def as_linear(linear: Any) -> nn.Linear:
    """A plain layer with the weight of a quantised one, and its bias."""
    weight = dequantized(linear)
    with torch.device("meta"):
        plain = nn.Linear(linear.in_features, linear.out_features, bias=False)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = linear.bias
    return plain.train(linear.training)


def keep_unpacked(backbone: nn.Module) -> list[Any]:
    """Keep bitsandbytes from packing 4-bit weights anew in evaluation mode, as it does on processors with AVX512-BF16:
    packed, they have no gradient, and not all are unpacked rightly. Returns the layers that were changed.

    Raises:
        ValueError: a layer that is packed already.
    """
    changed = []
    for path, layer in quantized_layers(backbone):
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise ValueError(
                f"backbone must be attached before it is run in evaluation mode, got {path}, which bitsandbytes has "
                "packed for inference on this processor: load the backbone anew"
            )
        if getattr(layer, _PACKS, False):
            setattr(layer, _PACKS, False)
            changed.append(layer)
    return changed


def let_pack(layers: Iterable[Any]) -> None:
    """Undo ``keep_unpacked``."""
    for layer in layers:
        setattr(layer, _PACKS, True)


class FrozenProduct(torch.autograd.Function):
    """``linear(x)``, whose gradient is that of the dequantised weight: ``grad_x = grad_y · weight``.

    Nothing is kept for the backward, where torchao keeps every weight in floating point, or has none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: nn.Module) -> Tensor:
        ctx.linear = linear
        return linear(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ dequantized(ctx.linear).to(grad.dtype), None
