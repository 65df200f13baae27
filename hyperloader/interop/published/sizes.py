"""The configurations of a published model, read off its tensors."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hyperloader.checkpoints.backbone_config import check_implementations
from hyperloader.config import LORA_SITES, HyperLoaderConfig
from hyperloader.interop.published.arguments import Arguments
from hyperloader.interop.published.names import NORMS
from hyperloader.json_file import read_json

TASKS = "task_embedding_controller.task_to_embeddings."
HYPERNETWORK = "adapter_layers_hyper_net."
DESCRIPTION = "config.json"
_MODELS = ("t5", "mt5")
_T5_FIELDS = (
    "bos_token_id", "d_ff", "d_kv", "d_model", "decoder_start_token_id", "dropout_rate", "eos_token_id",
    "feed_forward_proj", "initializer_factor", "layer_norm_epsilon", "num_decoder_layers", "num_heads", "num_layers",
    "pad_token_id", "relative_attention_max_distance", "relative_attention_num_buckets", "tie_word_embeddings",
    "vocab_size",
)  # fmt: skip


def t5_config(file: Path, tensors: Mapping[str, Tensor], backbone: nn.Module | str | None) -> Any:
    """The transformers config of the T5 in ``tensors``: that of ``backbone``, or that beside ``file``, or T5's own.

    A tensor that is missing counts as of size 1: the comparison of names, which comes later, lists it.
    """
    if backbone is None:
        return _t5_config_of_file(file, tensors)
    if isinstance(backbone, str):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(backbone, trust_remote_code=False)
        check_implementations(f"backbone {backbone}", config)
    elif isinstance(backbone, nn.Module):
        config = copy.deepcopy(getattr(backbone, "config", None))
    else:
        raise TypeError(f"backbone must be a model, the name of one, or None, got {backbone!r:.80}")
    model_type = getattr(config, "model_type", None)
    if model_type not in _MODELS:
        raise ValueError(f"backbone must be of model type {' or '.join(_MODELS)}, got {model_type!r}")
    return config


def t5_class(config: Any) -> type[nn.Module]:
    """The transformers class that ``config`` describes."""
    from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration

    return MT5ForConditionalGeneration if config.model_type == "mt5" else T5ForConditionalGeneration


def hyperloader_config(tensors: Mapping[str, Tensor], hidden: int, arguments: Arguments) -> HyperLoaderConfig:
    """Our configuration of the hypernetworks in ``tensors``, with the scaling 1 that the published LoRA has."""
    prefix = f"encoder.{HYPERNETWORK}"

    def size(name: str, axis: int = 0) -> int:
        return _size(tensors, prefix + name, axis)

    def has(part: str) -> bool:
        return any(name.startswith(prefix + part) for name in tensors)

    lora = has("lora_")
    rank = max(1, size("lora_a_hyper_net.weight_generator.0.weight") // hidden) if lora else 8
    return HyperLoaderConfig(
        tasks=[name.removeprefix(TASKS) for name in tensors if name.startswith(TASKS)],
        task_embedding_dim=size("layer_id_embeddings.weight", 1),
        condition_hidden_dim=size("task_hypernet.task_embeding_generator.0.weight"),
        condition_dim=size("task_hypernet.task_embeding_generator.2.weight"),
        bottleneck=size("down_sampler_hyper_net.bias_generator.0.weight"),
        lora_sites=LORA_SITES if lora else (),
        rank=rank,
        lora_alpha=rank,
        activation=arguments.activation,
        train_norms=arguments.train_norms,
        condition_norm=any(f".{HYPERNETWORK}LayerNorm." in name for name in tensors),
        norm=NORMS[has("pre_layernorm_hypernet."), has("post_layernorm_hypernet.")],
    )


def _t5_config_of_file(file: Path, tensors: Mapping[str, Tensor]) -> Any:
    from transformers import T5Config

    values = _sizes_of(tensors)
    description = file.with_name(DESCRIPTION)
    if description.is_file():
        values |= _described(description)
    gated = any(name.endswith("DenseReluDense.wi_0.weight") for name in tensors)
    if gated and "feed_forward_proj" not in values:
        raise ValueError(
            f"{file}: its feed-forward is gated, and no tensor tells by which function: put the model's {DESCRIPTION} "
            "beside it, or give backbone="
        )
    try:
        return T5Config(**values)
    except Exception as error:  # transformers checks a config with errors of its own
        raise ValueError(f"{description}: not the config of a T5: {error}") from error


def _sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    attention = "encoder.block.0.layer.0.SelfAttention"
    feed_forward = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    heads = _size(tensors, f"{attention}.relative_attention_bias.weight", 1)
    return {
        "vocab_size": _size(tensors, "shared.weight"),
        "d_model": _size(tensors, "shared.weight", 1),
        "d_kv": max(1, _size(tensors, f"{attention}.q.weight") // heads),
        "d_ff": _size(tensors, feed_forward, 1),
        "num_heads": heads,
        "num_layers": _blocks(tensors, "encoder"),
        "num_decoder_layers": _blocks(tensors, "decoder"),
        "relative_attention_num_buckets": _size(tensors, f"{attention}.relative_attention_bias.weight"),
        "decoder_start_token_id": 0,
    }


def _described(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if values.get("model_type", "t5") != "t5":
        raise ValueError(f"{path}: model_type must be t5, got {values['model_type']!r}")
    return {name: values[name] for name in _T5_FIELDS if name in values}


def _blocks(tensors: Mapping[str, Tensor], stack: str) -> int:
    prefix = f"{stack}.block."
    found = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return max(1, len(found))


def _size(tensors: Mapping[str, Tensor], name: str, axis: int = 0) -> int:
    tensor = tensors.get(name)
    return max(1, tensor.shape[axis]) if tensor is not None and tensor.ndim > axis else 1
