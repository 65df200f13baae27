"""One task's model as a token classifier of transformers, where nothing but LoRA and a head is in it."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyperloader.checkpoints.atomic import writing_folder
from hyperloader.config import TAGGING
from hyperloader.interop.program import Logits
from hyperloader.model import TaskModel
from hyperloader.nn.quantized import check_plain_layers
from hyperloader.nn.sites import AdaptedLinear
from hyperloader.validation import A_FEW, listed

_TOLERANCE = 1e-4  # of logits, relative to the largest


def save_token_classifier(model: TaskModel, folder: str | Path, tokenizer: Any = None) -> None:
    """Write ``model`` as ``AutoModelForTokenClassification`` and ``pipeline("token-classification")`` load it.

    Args:
        model: merged, of a task of tagging, without adapters.
        folder: to be made; what is there is replaced.
        tokenizer: written beside it, if given.

    Raises:
        ValueError: a model with adapters or quantised layers, of a task of whole sentences or without heads, or of a
            backbone whose token classifier in transformers computes something else.
    """
    built = token_classifier(model)
    with writing_folder(Path(folder)) as temporary:
        built.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)


def token_classifier(model: TaskModel) -> Any:
    """``model`` as a token classifier of transformers with copies of its weights; raises as ``save_token_classifier``
    does."""
    from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

    task, way_out = model.task, "; the formats onnx and ours hold all of it"
    if model.heads is None or model.labels is None:
        raise ValueError(
            f"task {task!r} must have a head for transformers' token classifiers; the format ours holds it"
        )
    if model.hyperloader_config.kind_of(task) != TAGGING:
        raise ValueError(f"task {task!r} must be one of tagging for transformers' token classifiers{way_out}")
    check_plain_layers(model.backbone, "a token classifier of transformers", "merge(..., dequantize=True) makes them")
    adapted = [path for path, module in model.backbone.named_modules() if isinstance(module, AdaptedLinear)]
    if adapted:
        where = listed(adapted, "layers", few=A_FEW)
        raise ValueError(f"transformers has no place for the adapters at {where}{way_out}")
    config = copy.deepcopy(model.config)
    config.id2label = dict(enumerate(model.labels))
    config.label2id = {label: number for number, label in enumerate(model.labels)}
    kind: Any = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None:
        raise ValueError(f"transformers has no token classifier of type {config.model_type}{way_out}")
    built = kind(config).to(model.dtype).eval()
    base = getattr(built, built.base_model_prefix)
    state = {name: tensor for name, tensor in model.backbone.state_dict().items() if not name.startswith("pooler.")}
    base.load_state_dict(state)
    weight, bias = model.heads.rows_of(0)
    own = [part for name, part in built.named_modules() if _is_outside(name, built.base_model_prefix)]
    if [type(part) for part in own] != [nn.Linear] or own[0].weight.shape != weight.shape:
        parts = listed([type(part).__name__ for part in own])
        raise ValueError(f"{kind.__name__} must have one linear layer behind the backbone, got {parts}{way_out}")
    own[0].load_state_dict({"weight": weight, "bias": bias})
    _check_same(model, built, way_out)
    return built


def _is_outside(name: str, prefix: str) -> bool:
    """Whether a module holds or makes numbers behind the backbone."""
    return name not in ("", prefix, "dropout") and not name.startswith(f"{prefix}.")


@torch.no_grad()
def _check_same(model: TaskModel, built: nn.Module, way_out: str) -> None:
    training = model.training
    wanted = Logits(model).eval()
    found = built(**dict(zip(wanted.inputs, wanted.example(), strict=True))).logits
    expected = wanted(*wanted.example())
    model.train(training)
    if (found - expected).abs().max() > _TOLERANCE * expected.abs().max():
        raise ValueError(f"{type(built).__name__} computes something else than task {model.task!r}{way_out}")
