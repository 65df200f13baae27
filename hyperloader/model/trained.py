"""What is trained of a HyperLoader model: its names, its precision, reading it back."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hyperloader.backbones.cross_attention_bias import NAME
from hyperloader.nn.norms import HALF
from hyperloader.nn.with_backbone import plain_name

if TYPE_CHECKING:
    from hyperloader.model.hyperloader_model import HyperLoaderModel


def parameters(model: "HyperLoaderModel") -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of all that is trained; what two stacks share once."""
    norms = {f"backbone.{name}" for name in model.norm_names}
    for full, parameter in model.named_parameters():
        name = plain_name(full)
        if not name.startswith("backbone.") or name in norms:
            yield name, parameter


def state(model: "HyperLoaderModel", state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What a checkpoint holds: what is trained, and a bias of the cross-attention; the values are those of
    ``state_dict``, None for the model's own."""
    state_dict = model.state_dict() if state_dict is None else state_dict
    everything = {plain_name(name): tensor for name, tensor in state_dict.items()}
    names = [*(name for name, _ in parameters(model)), f"backbone.{NAME}"]
    return {name: everything[name] for name in names if name in everything}


@torch.no_grad()
def load(model: "HyperLoaderModel", tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors``, which have the names and shapes of ``state``, into ``model``.

    What is stored in float64 is float64 then; everything else has the dtype that it is trained in.
    """
    for name, parameter in parameters(model):
        if name in tensors and tensors[name].dtype == torch.float64:
            parameter.data = parameter.data.double()
    names = {plain_name(name): name for name in model.state_dict()}
    model.load_state_dict({names[name]: tensor for name, tensor in tensors.items()}, strict=False)


def kept_wide(model: "HyperLoaderModel", convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``convert``, what ``.to()`` or ``.half()`` do to a tensor, but for what is trained, which stays in float32 where
    it would become half precision: an optimizer's steps are lost in half precision."""
    kept = set()
    for _, parameter in parameters(model):
        kept |= {id(parameter), id(parameter.grad)}
    kept.discard(id(None))

    def apply(tensor: Tensor) -> Tensor:
        converted = convert(tensor)
        if id(tensor) in kept and converted.dtype in HALF:
            return tensor.to(converted.device, torch.float32)
        return converted

    return apply
