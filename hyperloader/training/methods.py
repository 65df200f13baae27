"""The methods that can be trained and compared: the same data, steps and scoring for all."""

import dataclasses
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hyperloader.config import DESCRIPTION, HyperLoaderConfig
from hyperloader.data.kinds import Kind, kinds_of_config
from hyperloader.validation import check_choice, check_key, naming

_CONFIG_KEYS = tuple(
    field.name
    for field in dataclasses.fields(HyperLoaderConfig)
    if field.name not in ("tasks", "labels", "kinds", "units", "descriptions", "label_words")
)

_LORA = ("lora_sites", "rank", "lora_alpha")
_WORDS = ("task_condition", "text_encoder", "row_dropout")
_HYPERNETWORK = ("base_weights", "generator", "sparse_gradients")

# What the ``model:`` section of a run may hold, for each method.
METHODS = {
    "hyperloader": _CONFIG_KEYS,
    "hyperformer++": tuple(key for key in _CONFIG_KEYS if key not in (*_LORA, "base_weights")),
    "adapter": tuple(key for key in _CONFIG_KEYS if key not in (*_LORA, *_WORDS, *_HYPERNETWORK)),
    "lora": ("rank", "lora_alpha"),
    "full": (),
}
_LORA_TARGETS = {  # query and value, where PEFT has no names of its own
    "albert": ["query", "value"],
    "camembert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "longt5": ["q", "v"],
    "mbart": ["q_proj", "v_proj"],
    "modernbert": ["Wqkv"],  # fused with the key
    "mpnet": ["q", "v"],
    "olmo2": ["q_proj", "v_proj"],
    "pegasus": ["q_proj", "v_proj"],
    "phi3": ["qkv_proj"],  # fused with the key
    "umt5": ["q", "v"],
    "xlm-roberta-xl": ["query", "value"],
}
TASK_IN_TEXT = ("lora", "full")  # whose models, where they write text, learn the task from the text alone
FIXED_OPTIONS: dict[str, dict[str, Any]] = {  # of the methods that are a HyperLoaderModel
    "hyperloader": {},
    "hyperformer++": {"lora_sites": ()},
    "adapter": {"lora_sites": (), "generator": "table"},
}


def check_model_options(method: str, options: Mapping) -> None:
    """Raise ``ValueError`` unless ``method`` exists and takes these options."""
    check_choice("method", method, METHODS)
    for key in options:
        if key in _CONFIG_KEYS and key not in METHODS[method]:
            raise ValueError(f"model.{key} must not be given for the method {method}, got {options[key]!r}")
        check_key("model option", key, METHODS[method] or ("none",))
    with naming("model"):
        words: dict[str, Any] = {"descriptions": {"any": "any"}} if options.get("task_condition") == DESCRIPTION else {}
        HyperLoaderConfig(tasks=("any",), **words, **options)


def check_packages(method: str) -> None:
    """Raise ``ImportError`` if ``method`` needs a package that is not installed."""
    if method == "lora" and importlib.util.find_spec("peft") is None:
        raise ImportError("the method lora needs PEFT, which is not installed; run: pip install peft")


def build_model(
    method: str,
    backbone: Any,
    tasks: Sequence[str],
    labels: Mapping[str, Sequence[str]] | None = None,
    options: Mapping | None = None,
    kinds: Mapping[str, Kind] | None = None,
    words: Mapping[str, Mapping] | None = None,
    **texts: Any,
) -> nn.Module:
    """A model to train. All have ``forward(input_ids, attention_mask, labels, task_ids)`` and, without labels,
    ``generate``; the parameters with ``requires_grad`` are the trained ones.

    Args:
        method: ``hyperloader``; ``hyperformer++`` (no LoRA); ``adapter`` (adapters of its own for every task, no
            hypernetwork); ``lora`` (PEFT's LoRA on query and value, shared by all tasks); ``full`` (every weight).
        backbone: from ``load_backbone``.
        tasks: names of the tasks, in the order of their ids.
        labels: labels of every task, for heads; ``None`` for a model that writes text.
        options: keys of ``HyperLoaderConfig``; for ``lora``, ``rank`` and ``lora_alpha`` alone.
        kinds: of tasks of whole sentences.
        words: ``descriptions`` and ``label_words`` of a ``HyperLoaderConfig``.
        texts: ``tokenizer`` and ``embed_texts`` of a ``HyperLoaderModel``.
    """
    options = dict(options or {})
    check_model_options(method, options)
    of_config = kinds_of_config({} if labels is None else kinds or {})
    if method in FIXED_OPTIONS:
        from hyperloader.model import HyperLoaderModel

        values = {"tasks": list(tasks), **options, **FIXED_OPTIONS[method], **of_config, **(words or {})}
        if labels is not None:
            values["labels"] = {task: list(labels[task]) for task in tasks}
        return HyperLoaderModel(backbone, HyperLoaderConfig.from_dict(values), **texts)

    from hyperloader.nn.heads import head_dropout
    from hyperloader.training.baselines import TextWriter, TokenClassifier

    sizes = backbone.config
    if method == "full":
        backbone.requires_grad_(True)
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler.requires_grad_(False)  # the heads do not read the pooled sentence
    else:
        backbone = _with_lora(backbone, options)
    if labels is None:
        return TextWriter(backbone)
    of_tasks = {task: list(labels[task]) for task in tasks}
    return TokenClassifier(backbone, of_tasks, sizes.hidden_size, head_dropout(sizes), of_config["kinds"])


def _with_lora(backbone: Any, options: Mapping) -> nn.Module:
    """``backbone`` frozen, with PEFT's LoRA on the projections it names for this architecture: query and value."""
    check_packages("lora")
    from peft import LoraConfig, get_peft_model

    defaults = {field.name: field.default for field in dataclasses.fields(HyperLoaderConfig)}
    config = LoraConfig(
        r=options.get("rank", defaults["rank"]),
        lora_alpha=options.get("lora_alpha", defaults["lora_alpha"]),
        target_modules=_LORA_TARGETS.get(backbone.config.model_type),
    )
    with warnings.catch_warnings():  # PEFT still asks for a property that transformers has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(backbone, config)
