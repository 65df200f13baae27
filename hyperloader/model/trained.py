"""What is trained of a model around a backbone: its names, its precision, reading it back."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from hyperloader.backbones.compiled import plain_name
from hyperloader.backbones.cross_attention_bias import NAME
from hyperloader.nn.described import text_buffers
from hyperloader.nn.norms import HALF
from hyperloader.nn.packed_heads import packed_names
from hyperloader.nn.sharded import shared_like


def own_tensors(model: nn.Module, norm_names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all that is trained, of the backbone ``norm_names`` alone, what two stacks share once; and of
    the frozen embeddings of texts."""
    norms = {f"backbone.{name}" for name in norm_names}
    for full, parameter in model.named_parameters():
        name = plain_name(full)
        if not name.startswith("backbone.") or name in norms:
            yield name, parameter
    yield from text_buffers(model).items()


def trained_state(
    model: nn.Module, norm_names: Collection[str], state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """What a checkpoint holds: ``own_tensors``, and a bias of the cross-attention; the values are those of
    ``state_dict``, None for the model's own."""
    state_dict = model.state_dict() if state_dict is None else state_dict
    by_name = {plain_name(name): tensor for name, tensor in state_dict.items()}
    packed = packed_names(model)
    own = (packed.get(name, [name]) for name, _ in own_tensors(model, norm_names))
    names = [*itertools.chain.from_iterable(own), f"backbone.{NAME}"]
    return {name: by_name[name] for name in names if name in by_name}


@torch.no_grad()
def load_trained_state(model: nn.Module, norm_names: Collection[str], tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors``, which have the names and shapes of ``trained_state``, into ``model``.

    What is stored in float64 is float64 then; everything else has the dtype that it is trained in.
    """
    packed = packed_names(model)
    for own, tensor in own_tensors(model, norm_names):
        name = packed.get(own, [own])[0]
        if name in tensors and tensors[name].dtype == torch.float64:
            tensor.data = tensor.data.double()
    state = model.state_dict()
    names = {plain_name(name): name for name in state}
    model.load_state_dict(shared_like({names[name]: one for name, one in tensors.items()}, state), strict=False)


def kept_in_float32(
    tensors: Iterator[tuple[str, Tensor]], convert: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """``convert``, what ``.to()`` or ``.half()`` do to a tensor, but for these ``tensors``, which stay in
    float32 where they would become half precision: an optimizer's steps are lost in half precision."""
    kept = {id(tensor) for _, one in tensors for tensor in (one, one.grad) if tensor is not None}

    def apply(tensor: Tensor) -> Tensor:
        converted = convert(tensor)
        if id(tensor) in kept and converted.dtype in HALF:
            return tensor.to(converted.device, torch.float32)
        return converted

    return apply
