"""Reading the config of a backbone from a file: sizes and switches, and nothing that would fetch code."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hyperloader.json_file import read_json
from hyperloader.validation import LARGEST, shown

ATTENTIONS = ("eager", "sdpa", "flex_attention")
_FLASH = {  # without its package transformers fetches a kernel from the Hub in its place
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn.cute",
}
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
_LAYERS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
_OWN_LAYERS = {"albert": ("num_hidden_groups", "inner_group_num")}  # of families whose layers share tensors
CONFIG = "config.json"


def check_implementations(where: object, values: Any) -> None:
    """Raise ``ValueError``, beginning with ``where``, if a config, or one inside it, names an implementation of
    attention that is not transformers' own: one such as ``owner/repo`` is code from the Hub.

    Args:
        values: the content of a ``config.json``, or a config of transformers.
    """
    if not isinstance(values, dict):
        names = {name: getattr(values, f"_{name}", None) for name in _IMPLEMENTATIONS}
        parts = {name: getattr(values, name, None) for name in getattr(values, "sub_configs", ())}
        values = names | {name: part for name, part in parts.items() if part is not None}
        for part in parts.values():
            if part is not None and not isinstance(part, dict):
                check_implementations(where, part)
    for key, value in values.items():
        if any(name in key for name in _IMPLEMENTATIONS):
            for chosen in value.values() if isinstance(value, dict) else [value]:
                _check_implementation(f"{where}: {key}", chosen)
        elif isinstance(value, dict):
            check_implementations(where, value)


def _check_implementation(argument: str, value: Any) -> None:
    if value is None or value in ATTENTIONS:
        return
    if not isinstance(value, str) or value not in _FLASH:
        raise ValueError(
            f"{argument} must be one of {', '.join((*ATTENTIONS, *_FLASH))}, got {shown(value)}; code from elsewhere "
            "is not loaded: remove this key from the file"
        )
    package = _FLASH[value]
    if importlib.util.find_spec(package.partition(".")[0]) is None:
        raise ValueError(
            f"{argument} is {value}, which needs the package {package.partition('.')[0]}, which is not installed; "
            "install it, or remove this key from the file"
        )


def backbone_class(name: str, where: object) -> type:
    """The class ``name`` of transformers; raises ``ValueError``, beginning with ``where``, if it has none."""
    import transformers

    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ValueError(f"{where}: backbone class {name!r} is none of transformers'")
    return kind


def read_backbone_config(kind: Any, path: Path, layers: int) -> Any:
    """The config of a model of transformers' class ``kind`` in the file ``path``.

    Args:
        layers: the most that the model can have.

    Raises:
        ValueError: a file that holds no such config, a number beyond all sizes, more layers, an implementation of
            attention that is not transformers' own.
    """
    values = read_json(path, f"the config of a {kind.__name__}")
    check_implementations(path, values)
    for name, value in values.items():
        if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            raise ValueError(f"{path}: {name} must be at most {LARGEST}, got {shown(value)}")
    names = _OWN_LAYERS.get(kind.config_class.model_type, _LAYERS)
    _check_layers(path, values, names, layers)  # before lists of that length are made
    try:
        config = kind.config_class.from_dict(values)
    except Exception as error:  # transformers raises anything for wrong values
        raise ValueError(f"{path}: not the config of a {kind.__name__}: {first_line(error)}") from error
    _check_layers(path, {name: getattr(config, name, None) for name in names}, names, layers)
    return config


def _check_layers(path: Path, values: Mapping[str, Any], names: Iterable[str], layers: int) -> None:
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not 0 <= value <= layers:
            raise ValueError(f"{path}: {name} must be from 0 to {layers}, for which there are tensors, got {value}")


def read_generation_config(path: Path) -> Any:
    """The generation config in the file ``path``; raises ``ValueError`` for any other file."""
    from transformers import GenerationConfig

    values = read_json(path, "a generation config")
    try:
        config = GenerationConfig.from_dict(values)
        config.validate()
    except Exception as error:  # transformers raises anything for wrong values
        raise ValueError(f"{path}: not a generation config: {first_line(error)}") from error
    return config


def first_line(error: Exception) -> str:
    """What an error says, on one line; with its kind where the words may not say enough."""
    text = " ".join(str(error).split())[:300]
    return text if text and isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {text}"
