"""The relative position bias of T5's cross-attention.

    scores[head, query, key] += weight[bucket(key - query), head]      with the encoder's bidirectional buckets

The files of t5-base hold the tensor, and transformers up to 3.5 added it in every layer of the decoder. Later versions
drop it, but still hand a bias from the first layer on to the others: a hook on the first layer's cross-attention brings
it back.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NAME = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_ATTENTION, _BIAS = NAME.removesuffix(".weight").rsplit(".", 1)
_PREFIX = "backbone."  # of a backbone's tensors in the files of a model
_MODELS = ("t5", "mt5")
_IMPLEMENTATIONS = ("eager", "sdpa")  # of attention
_TRANSFORMERS = (5, 15)  # the first version that adds the mask to a bias that it is given


class CrossAttentionBias(nn.Embedding):
    """``weight`` (buckets, heads), which is not trained; lives in the cross-attention of the decoder's first layer."""

    def __init__(self, weight: Tensor, attention: nn.Module) -> None:
        buckets, heads = weight.shape
        super().__init__(buckets, heads, _weight=weight.detach().clone())
        self.weight.requires_grad_(False)
        self.hook = attention.register_forward_pre_hook(_hand_in, with_kwargs=True)


def cross_attention_bias(backbone: nn.Module) -> Tensor | None:
    """The bias of ``backbone``, None if it has none."""
    bias = getattr(backbone.get_submodule(_ATTENTION), _BIAS, None) if can_have_bias(backbone) else None
    return None if bias is None else bias.weight


def can_have_bias(backbone: nn.Module) -> bool:
    """Whether ``backbone`` is a T5 with a decoder."""
    model_type = getattr(getattr(backbone, "config", None), "model_type", None)
    return model_type in _MODELS and getattr(backbone, "decoder", None) is not None


def _check_implementation(attention: Any) -> None:
    found = attention.config._attn_implementation
    if found not in _IMPLEMENTATIONS:
        raise ValueError(
            f"attn_implementation must be {' or '.join(_IMPLEMENTATIONS)} for a T5 with a bias of its cross-attention, "
            f"got {found!r}: call set_attn_implementation('sdpa') of its decoder"
        )


def set_cross_attention_bias(backbone: nn.Module, weight: Tensor | None) -> None:
    """Have ``backbone`` add a relative position bias to the scores of its cross-attention, or no longer.

    Args:
        backbone: a T5 with a decoder. Its ``state_dict`` then holds the bias, under the name that older T5 files have;
            transformers' own ``from_pretrained`` leaves it out again.
        weight: (buckets, heads), copied, in the backbone's dtype and on its device; None takes the bias off.

    Raises:
        ValueError: a backbone without cross-attention, another shape, an implementation of attention that is neither
            ``eager`` nor ``sdpa``. ImportError: transformers before 5.15.
    """
    if weight is not None:
        check_cross_attention_bias(backbone, weight)
    attention: Any = backbone.get_submodule(_ATTENTION)
    if hasattr(attention, _BIAS):
        getattr(attention, _BIAS).hook.remove()
        delattr(attention, _BIAS)
    if weight is not None:
        # `q` may be wrapped; its weight has the backbone's device and dtype all the same.
        setattr(attention, _BIAS, CrossAttentionBias(weight.to(attention.q.weight), attention))


def check_cross_attention_bias(backbone: nn.Module, weight: Tensor) -> None:
    """Raise what ``set_cross_attention_bias`` raises."""
    if not can_have_bias(backbone):
        raise ValueError(f"backbone must be a T5 with a decoder, got {type(backbone).__name__}")
    attention = backbone.get_submodule(_ATTENTION)
    shape = (attention.relative_attention_num_buckets, attention.n_heads)
    if weight.shape != shape:
        raise ValueError(f"{NAME} must have shape {shape}, got {tuple(weight.shape)}")
    _check_transformers()
    _check_implementation(attention)


def add_stored_bias(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Give ``backbone`` the bias in ``tensors``, those of a model's file, unless it has one; returns whether it did.

    A tensor that this backbone cannot have is left for the comparison of names.
    """
    stored = tensors.get(_PREFIX + NAME)
    if stored is None or not can_have_bias(backbone) or cross_attention_bias(backbone) is not None:
        return False
    set_cross_attention_bias(backbone, stored)
    return True


def match_stored_bias(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give ``backbone`` the bias in ``tensors``, those of a model's file; without one there, take its own off."""
    if not add_stored_bias(backbone, tensors) and _PREFIX + NAME not in tensors and can_have_bias(backbone):
        set_cross_attention_bias(backbone, None)


@contextmanager
def stored_bias(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[bool]:
    """As ``add_stored_bias``; if the block fails, the bias is taken off again."""
    added = add_stored_bias(backbone, tensors)
    try:
        yield added
    except BaseException:
        if added:
            set_cross_attention_bias(backbone, None)
        raise


def _hand_in(attention: Any, arguments: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """What transformers calls ``position_bias``, (1, heads, queries, keys), for the call of the first layer."""
    _check_implementation(attention)
    weight = getattr(attention, _BIAS).weight
    queries, keys, cache = arguments[0].shape[1], options["key_value_states"].shape[1], options.get("past_key_values")
    # The self-attention of this layer has already put the queries' keys into the cache.
    first = 0 if cache is None else cache.get_seq_length(attention.layer_idx) - queries
    query = torch.arange(queries, device=weight.device) + first
    distance = torch.arange(keys, device=weight.device) - query[:, None]
    bucket = attention._relative_position_bucket(
        distance,
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return arguments, options | {"position_bias": weight[bucket].permute(2, 0, 1)[None]}


def _check_transformers() -> None:
    import transformers

    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < _TRANSFORMERS:
        wanted = ".".join(map(str, _TRANSFORMERS))
        raise ImportError(
            f"transformers must be at least {wanted} for a T5 with a bias of its cross-attention, got "
            f"{transformers.__version__}"
        )
